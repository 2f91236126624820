"""What modules may import: benchmarks stand above the tests' support code, and private names stay in their module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("condinst_deploy", "export", "engines", "tests", "benchmarks", "demo", "examples", "docs")
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    # kept as their authors wrote them
    if not path.is_relative_to(ROOT / "tests" / "cases") and "node_modules" not in path.parts
]


def imported(path: Path) -> set[str]:
    """The modules, and names from modules, that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_benchmarks_use_the_support_code_of_the_tests_and_nothing_uses_benchmarks() -> None:
    """packages <- tests/support <- benchmarks <- tests/benchmarks."""
    wrong = []
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        for name in sorted(imported(path)):
            of_benchmarks = name.split(".")[0] == "benchmarks"
            if of_benchmarks and not place.startswith(("benchmarks/", "tests/benchmarks/")):
                wrong.append(f"{place} imports {name}")
            if place.startswith("benchmarks/") and name.startswith("tests.") and not name.startswith("tests.support."):
                wrong.append(f"{place} imports {name}")
    assert not wrong


@pytest.mark.parametrize("folder", ["condinst_deploy", "export", "engines"])
def test_the_packages_import_nothing_of_the_tests(folder: str) -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / folder):
            assert not {name for name in imported(path) if name.split(".")[0] in ("tests", "benchmarks", "demo")}, path
