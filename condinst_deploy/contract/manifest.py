"""The manifest: the description that every model file carries."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, get_args

from condinst_deploy.contract.model_settings import LARGEST_SIDE, Family, Preprocessing, Selection
from condinst_deploy.contract.quantization import Quantization
from condinst_deploy.contract.versioned import checked_version, versioned_values
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.shown_text import shown, shown_value
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.suggestions import did_you_mean
from condinst_deploy.support.validation import printable, typed

MANIFEST_VERSION = 1
MANIFEST_KEY = "condinst_deploy"
"""Name of the manifest's entry in an ONNX file's `metadata_props`."""

REMEDY = "export the model again"

WRITTEN = ("class_names", "category_ids", "preprocessing", "selection")
"""Entries that every release has written: their defaults are for manifests made in Python."""


@dataclass(frozen=True)
class ModelManifest:
    """Description of a model file; loading checks it, and guesses nothing from tensors."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's id of each label, for COCO results
    family: Family = "mmdet"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    selection: Selection = field(default_factory=Selection)
    mask_stride: int = 8
    precision: str = "float32"  # also int8: of a file for CPUs
    quantization: Quantization | None = None  # None: no tensor has 8 bits
    static_shape: tuple[int, int, int] | None = None  # batch, height, width; None: dynamic
    source: str = ""  # name of the file that the weights came from
    source_sha256: str = ""
    tools: dict[str, str] = field(default_factory=dict)  # library -> version
    version: int = MANIFEST_VERSION

    def __post_init__(self) -> None:
        """Check the class list.

        Raises:
            ArtifactError: it is empty, or names and ids do not go together.
        """
        if not self.class_names or len(self.class_names) != len(self.category_ids):
            raise ArtifactError(
                f"the manifest has {len(self.class_names)} class names and {len(self.category_ids)} category ids;"
                " expected as many of one as of the other, and at least one"
            )
        wrong = [name for name, right in self._checks().items() if not right]
        if wrong:
            received = ", ".join(f"{name} is {shown_value(attrgetter(name)(self))}" for name in wrong)
            raise ArtifactError(f"in the manifest {received}, which this release cannot use; {REMEDY}")

    def _checks(self) -> dict[str, bool]:
        static = self.static_shape
        return {
            "class_names": all(isinstance(name, str) for name in self.class_names),
            "category_ids": all(type(i) is int and i.bit_length() < 64 for i in self.category_ids),
            "family": self.family in get_args(Family),
            "preprocessing.family": self.preprocessing.family == self.family,
            "selection.family": self.selection.family == self.family,
            "mask_stride": self.mask_stride == 8,
            "precision": isinstance(self.precision, str),
            "static_shape": static is None or (len(static) == 3 and all(map(_is_side, static))),
            "tools": isinstance(self.tools, dict),
        }

    def to_json(self) -> str:
        """One line of JSON."""
        return json_text(asdict(self), "the manifest")

    @classmethod
    def from_json(cls, text: str) -> "ModelManifest":
        """Read and check what `to_json` wrote.

        Raises:
            ArtifactError: it is not a manifest of a version that this release reads.
        """
        return cls._from_values(versioned_values(text, MANIFEST_VERSION, REMEDY))

    @classmethod
    def from_dict(cls, values: Any) -> "ModelManifest":
        """Rebuild from plain dictionaries, as read from JSON or from a checkpoint.

        Raises:
            ArtifactError: it is not a manifest of a version that this release reads.
        """
        return cls._from_values(checked_version(values, MANIFEST_VERSION, REMEDY))

    @classmethod
    def _from_values(cls, values: dict[str, Any]) -> "ModelManifest":
        missing = [name for name in WRITTEN if name not in values]
        if missing:
            raise ArtifactError(f"the manifest cannot be used ({', '.join(missing)} is missing); {REMEDY}")
        if isinstance(source := values.get("source"), str):
            values = values | {"source": printable(source)}  # written so until 0.1.0: any file name
        try:
            return typed(values, cls)
        except ConfigError as e:
            raise ArtifactError(f"the manifest cannot be used ({e}); {REMEDY}") from e


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def label_of(class_names: Sequence[str], wanted: object) -> int:
    """Return the label of a class name.

    Raises:
        ConfigError: the model has no class of that name.
    """
    if isinstance(wanted, str) and wanted in class_names:
        return class_names.index(wanted)
    as_option = [_quoted(name) for name in class_names]
    remark = (
        ""
        if as_option == list(class_names)
        else " (a name with a comma, a quote first, or spaces at its ends stands in double quotes)"
    )
    raise ConfigError(
        f"the model has no class {shown_value(wanted)}; its classes are {shown(', '.join(as_option), 1000)}{remark}"
        f"{did_you_mean(wanted[:60] if isinstance(wanted, str) else wanted, class_names)}"
    )


def _quoted(name: str) -> str:
    """A class name as `--classes` takes it: double quotes where it would be read otherwise, quotes inside doubled."""
    needed = "," in name or name.startswith('"') or name != name.strip()
    return f'"{name.replace(chr(34), chr(34) * 2)}"' if needed else name


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Return names for classes without names."""
    return tuple(f"class_{i}" for i in range(num_classes))


def contiguous_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Category ids 1..n, the custom of COCO-format data sets."""
    return tuple(range(1, len(names) + 1))
