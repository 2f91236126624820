"""Guides and issue templates start with condinst-doctor."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = (
    "docs/serving.md",
    "docs/own_data.md",
    "docs/training.md",
    "docs/evaluation.md",
    "docs/precision.md",
    "docs/batch.md",
    "export/README.md",
    "engines/README.md",
)
TEMPLATES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.md"))


def text_of(path: Path) -> list[str]:
    """The lines of a document behind its front matter and its title."""
    text = path.read_text()
    if text.startswith("---\n"):
        text = text.split("---\n", 2)[2]
    return [line for line in text.splitlines() if line and not line.startswith("# ")]


@pytest.mark.parametrize("document", [*GUIDES, *TEMPLATES])
def test_the_doctor_comes_first(document: str) -> None:
    assert "`condinst-doctor" in text_of(ROOT / document)[0]


def test_there_are_templates() -> None:
    assert len(TEMPLATES) >= 2
