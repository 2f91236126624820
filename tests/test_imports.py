"""Rules of imports: benchmarks are above the tests' support code, and private names stay in their module."""

import ast
import re
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

PRIVATE = re.compile("_[a-zA-Z].*")


def imported(path: Path) -> set[str]:
    """The modules, and names from modules, that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def private(path: Path) -> set[str]:
    """Private names that a file imports, or patches by text in another module."""
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found = {name for name in imported(path) if any(PRIVATE.fullmatch(part) for part in name.split("."))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if called in ("setattr", "delattr", "getattr"):
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found.update(t for t in texts if PRIVATE.fullmatch(t.split(".")[-1]) and t not in own)
    return found


def test_a_private_name_stays_in_its_module() -> None:
    """Ruff's SLF001 finds `module._name`; this finds imports and patches."""
    assert {path.relative_to(ROOT).as_posix(): names for path in SOURCES if (names := private(path))} == {}


def test_private_imports_and_patches_are_found(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "from a import _b\nfrom a._c import d\nimport a._e\nmonkeypatch.setattr('a._f', 1)\ngetattr(x, '_g')\n"
        "from __future__ import annotations\ngetattr(x, '__name__')\ndef _own(): ...\nsetattr(x, '_own', 2)\n"
    )
    assert private(tmp_path / "module.py") == {"a._b", "a._c.d", "a._e", "a._f", "_g"}


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


def test_what_tests_share_is_in_their_support_code() -> None:
    """No test module imports another one."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        for name in sorted(imported(path))
        if re.match(r"tests\.(\w+\.)*test_\w+\.", name)
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ["condinst_deploy", "export", "engines"])
def test_the_packages_import_nothing_of_the_tests(folder: str) -> None:
    for path in SOURCES:
        if path.is_relative_to(ROOT / folder):
            assert not {name for name in imported(path) if name.split(".")[0] in ("tests", "benchmarks", "demo")}, path
