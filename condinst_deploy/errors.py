"""The one error tree of the toolkit.

Every error that a user can cause derives from `CondInstError`; its message says what came, what was
expected and what to do. Command lines print it as one line, without a traceback. The class decides the exit status: 2
(wrong usage) for a `ConfigError`, 1 for every other error. A file that is missing or has the wrong content is therefore
no `ConfigError`; a name or a folder that an option does not take is one.
"""

from condinst_deploy.shown_text import shown


class CondInstError(Exception):
    """Base class of every error that this toolkit raises on purpose.

    Messages quote files, so that `str` gives one line that is safe to print (`shown`).
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class ConfigError(CondInstError):
    """A setting, an option or an argument that cannot be used."""


class SettingError(ConfigError):
    """A setting of a dataclass with a value that cannot be used.

    Attributes:
        setting: its name, for example `momentum` or `optimizer.betas[1]`.
        problem: the value and what was expected, as the end of a sentence that begins with the name.
    """

    def __init__(self, setting: str, problem: str) -> None:
        """Name the setting apart from the problem, so that a reader of files can say where the setting stands."""
        super().__init__(setting, problem)
        self.setting, self.problem = setting, problem

    def __str__(self) -> str:
        return shown(f"{self.setting} {self.problem}")


class MissingFileError(CondInstError):
    """A recipe, a list of names or a folder that was named and does not exist.

    Other files that do not exist raise the error of their kind: `CheckpointError`, `ArtifactError`, `DataError` or
    `ImageError`.
    """


class CheckpointError(CondInstError):
    """A checkpoint that cannot be read, is not safe to read, or does not fit the model."""


class ArtifactError(CondInstError):
    """An exported file or an engine that cannot be used, or whose manifest is missing or wrong."""


class ImageError(CondInstError):
    """An image that cannot be read or has a form that is not supported."""


class BackendError(CondInstError):
    """A device, an execution provider or a library that was asked for and is not there."""


class DeviceError(BackendError, ConfigError):
    """A device that was asked for and that this machine does not have: an option to be changed."""


class OutputError(CondInstError):
    """A result that cannot be written where it was asked to go."""


class ExportError(CondInstError):
    """A model that could not be turned into a graph."""


class VerificationError(CondInstError):
    """An exported file whose outputs differ from the PyTorch model's by more than the tolerance."""


class EngineError(CondInstError):
    """A graph that the engine builder refuses, or an engine that cannot be built or loaded."""


class DataError(CondInstError):
    """A data set that is malformed or incomplete."""


class DistributedError(CondInstError):
    """Another process of a run on several processes failed, ended, or does not answer."""
