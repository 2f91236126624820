"""Findings of the analysis of a data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from condinst_deploy.errors import DataError

NAMED = 5
"""Number of entries that a finding lists."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        what: the kind, as the end of a sentence that begins with a count.
        advice: what to do; "" if there is nothing to do.
        count: how many.
        named: the first of them.
    """

    what: str
    advice: str
    count: int
    named: tuple[str, ...] = ()

    @classmethod
    def of(cls, what: str, advice: str, names: Sequence[object]) -> "Finding":
        """All that were found, by name."""
        return cls(what, advice, len(names), tuple(shown(name) for name in names[:NAMED]))

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.named) else ""
        listed = f" ({', '.join(self.named)}{more})" if self.named else ""
        return f"{self.count} {self.what}{listed}" + (f"; {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class ClassCount:
    """Number of objects of a class, by COCO's sizes: small below 32 x 32 pixels of area, large from 96 x 96."""

    name: str
    images: int
    objects: int
    small: int
    medium: int
    large: int


@dataclass(frozen=True)
class DataReport:
    """Contents of a training set.

    Attributes:
        annotations: its file.
        images: that are trained on.
        listed: images that the file lists.
        classes: in the order of the labels.
        errors: what cannot be right.
        warnings: what is odd.
        notes: what is usual and is left out.
    """

    annotations: str
    images: int
    listed: int
    classes: tuple[ClassCount, ...]
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    notes: tuple[Finding, ...]

    @property
    def objects(self) -> int:
        """Objects to learn."""
        return sum(each.objects for each in self.classes)

    def check(self, strict: bool = False) -> None:
        """Refuse what cannot be right; with `strict` also what is odd.

        Raises:
            DataError: something was found; every kind is named with its first examples.
        """
        found = self.errors + (self.warnings if strict else ())
        if found:
            raise DataError(
                f"{shown(self.annotations)} cannot be trained on: " + "; ".join(str(each) for each in found)
            )

    def text(self) -> str:
        """The report as plain lines of at most the names' length: a table, then what was found."""
        lines = [f"{self.images} of {self.listed} images, {self.objects} objects to learn"]
        lines += _table(self.classes)
        for kind, findings in (("error", self.errors), ("warning", self.warnings), ("note", self.notes)):
            lines += [f"{kind}: {finding}" for finding in findings]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"objects": self.objects}


def shown(value: object) -> str:
    """A value of a file as text of one line: what does not print is escaped, and long text is cut."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value)[:81])
    return text if len(text) <= 80 else f"{text[:77]}..."


def _table(classes: Sequence[ClassCount]) -> list[str]:
    rows: list[tuple[str, ...]] = [("class", "images", "objects", "small", "medium", "large")]
    rows += [(shown(c.name), *(str(n) for n in (c.images, c.objects, c.small, c.medium, c.large))) for c in classes]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(n.rjust(width) for n, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
