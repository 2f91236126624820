"""docs/architecture.md names every part of the package, and functions that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DIAGRAM = TEXT.split("```mermaid")[1].split("```")[0]
TABLE = "\n".join(line for line in TEXT.splitlines() if line.startswith("| `"))
PARTS = [path.parent.name for path in sorted((ROOT / "condinst_deploy").glob("*/__init__.py"))]
PARTS += [path.stem for path in sorted((ROOT / "condinst_deploy").glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_package_is_in_the_diagram_and_in_the_table(name: str) -> None:
    assert re.search(rf"\b{name}\b", DIAGRAM)
    assert f"`{name}`" in TABLE


@pytest.mark.parametrize(("module", "name"), re.findall(r"`([\w/]+\.py): (\w+)`", TEXT))
def test_a_function_or_class_that_it_names_is_there(module: str, name: str) -> None:
    source = (ROOT / "condinst_deploy" / module).read_text(encoding="utf-8")
    assert re.search(rf"^ *(def|class) {name}\b", source, re.M)
