"""Findings of the analysis of a data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len

from condinst_deploy.errors import DataError
from condinst_deploy.shown_text import counted, quoted_if_odd, shown

NAMED = 5
"""Number of entries that a finding lists."""

LONGEST_NAME, LONGEST_ENTRY = 60, 160
"""Characters of a class name in the table, and of an entry in the list of a finding."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        noun: what was found, one of them: "object", "image".
        what: the kind, as the end of a sentence that begins with a count and the noun.
        advice: what to do; "" if there is nothing to do.
        count: how many.
        named: the first of them.
        annotations: the annotation file that it is about; "": the report's own.
    """

    noun: str
    what: str
    advice: str
    count: int
    named: tuple[str, ...] = ()
    annotations: str = ""

    @classmethod
    def of(cls, noun: str, what: str, advice: str, names: Sequence[object], most: int = NAMED) -> "Finding":
        """All that were found, of which the first `most` are named."""
        return cls(noun, what, advice, len(names), tuple(shown(name, LONGEST_ENTRY) for name in names[:most]))

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.named) else ""
        listed = f" ({', '.join(self.named)}{more})" if self.named else ""
        return f"{counted(self.count, self.noun)} {self.what}{listed}" + (f"; {self.advice}" if self.advice else "")


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
    """Contents of a training set, and what was found in it and in its validation set.

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
            DataError: something was found; every kind is named with its file and its first examples.
        """
        by_file: dict[str, list[str]] = {}
        for finding in self.errors + (self.warnings if strict else ()):
            by_file.setdefault(finding.annotations, []).append(str(finding))
        if by_file:
            raise DataError(
                "; ".join(
                    f"{shown(file or self.annotations)} cannot be {'evaluated' if file else 'trained'} on:"
                    f" {'; '.join(found)}"
                    for file, found in sorted(by_file.items())
                )
            )

    def text(self, *, errors: bool = True, warnings: bool = True) -> str:
        """The report as plain lines: a table, then what was found, without what `check` will raise."""
        images = f"{self.images:,} of {counted(self.listed, 'image')}"
        file = shown(self.annotations, LONGEST_ENTRY)
        lines = [f"{file}: {images}, {counted(self.objects, 'object')} to learn"]
        lines += _table(self.classes)
        wrong, odd = self.errors if errors else (), self.warnings if warnings else ()
        for kind, findings in (("error", wrong), ("warning", odd), ("note", self.notes)):
            for finding in findings:
                place = f"{shown(finding.annotations, LONGEST_ENTRY)}: " if finding.annotations else ""
                lines.append(f"{kind}: {place}{finding}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"objects": self.objects}


def _table(classes: Sequence[ClassCount]) -> list[str]:
    rows: list[tuple[str, ...]] = [("class", "images", "objects", "small", "medium", "large")]
    for each in classes:
        numbers = (each.images, each.objects, each.small, each.medium, each.large)
        rows.append((quoted_if_odd(each.name, LONGEST_NAME), *map(str, numbers)))
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *counts in rows:
        padding = " " * (widths[0] - cell_len(name))  # a character can take two columns of a terminal, or none
        right = [count.rjust(width) for count, width in zip(counts, widths[1:], strict=True)]
        lines.append("  ".join([name + padding, *right]))
    return lines
