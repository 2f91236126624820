"""The manifest: what an artifact says of itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from condinst_deploy.contract.settings import Family, Preprocessing, Selection, known_fields
from condinst_deploy.contract.versioned import checked_version, versioned_values
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.support.json_text import json_text

MANIFEST_VERSION = 1
MANIFEST_KEY = "condinst_deploy"
"""Name of the manifest's entry in an ONNX file's `metadata_props`."""

REMEDY = "export the model again"


@dataclass(frozen=True)
class ModelManifest:
    """What an artifact says of itself; loading checks it, and nothing is guessed from tensors."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's id of each label, for COCO results
    family: Family = "mmdet"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    selection: Selection = field(default_factory=Selection)
    mask_stride: int = 8
    precision: str = "float32"
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
            received = ", ".join(f"{name} is {getattr(self, name)!r}" for name in wrong)
            raise ArtifactError(f"in the manifest {received}, which this release cannot use; {REMEDY}")

    def _checks(self) -> dict[str, bool]:
        static = self.static_shape
        return {
            "class_names": all(isinstance(name, str) for name in self.class_names),
            "category_ids": all(type(i) is int for i in self.category_ids),
            "family": self.family in get_args(Family),
            "preprocessing": self.preprocessing.family == self.family,
            "selection": self.selection.family == self.family,
            "mask_stride": self.mask_stride == 8,
            "precision": isinstance(self.precision, str),
            "static_shape": static is None or (len(static) == 3 and all(type(n) is int and n > 0 for n in static)),
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
        try:
            values = known_fields(cls, values)
            static = values.get("static_shape")
            return cls(
                **values
                | {
                    "class_names": _tuple(values["class_names"]),
                    "category_ids": _tuple(values["category_ids"]),
                    "preprocessing": Preprocessing.from_dict(values["preprocessing"]),
                    "selection": Selection.from_dict(values["selection"]),
                    "static_shape": None if static is None else _tuple(static),
                }
            )
        except (KeyError, TypeError, ValueError, ConfigError) as e:
            raise ArtifactError(f"the manifest cannot be used ({e!r}); {REMEDY}") from e


def _tuple(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"a list was expected, not {values!r}")
    return tuple(values)


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Names of classes that nobody named."""
    return tuple(f"class_{i}" for i in range(num_classes))


def contiguous_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Category ids 1..n, the custom of COCO-format data sets."""
    return tuple(range(1, len(names) + 1))
