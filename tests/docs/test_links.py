"""Documents refer to files, headings and decisions that exist."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PACKAGES = ("", "condinst_deploy", "export", "engines")
"""Folders that paths in documents may be relative to, beside the document's own."""

SUFFIXES = (
    ".cpp",
    ".html",
    ".ipynb",
    ".jpg",
    ".js",
    ".json",
    ".md",
    ".mjs",
    ".npz",
    ".png",
    ".pth",
    ".py",
    ".toml",
    ".sh",
)
EXTERNAL = {"setup.py"}
"""Files of other projects that documents name without a folder."""

LONGEST_ARCHITECTURE = 120


def documents() -> list[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    paths = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return sorted({path for path in paths if path and (ROOT / path).exists()})


@cache
def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text())


def inline(path: Path) -> Iterator[Token]:
    for token in tokens(path):
        yield from token.children or ()


@cache
def anchors(path: Path) -> frozenset[str]:
    """Names of a document's headings, as GitHub forms them."""
    seen: dict[str, int] = {}
    found = set()
    for opening, content in pairwise(tokens(path)):
        if opening.type == "heading_open":
            text = "".join(child.content for child in content.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            found.add(f"{slug}-{count}" if count else slug)
    return frozenset(found)


def targets(path: Path) -> Iterator[str]:
    for token in inline(path):
        target = token.attrGet("href" if token.type == "link_open" else "src")
        if target is not None:
            yield str(target)


def broken(path: Path, target: str) -> bool:
    """Return whether a link or an image source is broken; addresses of other hosts are not followed."""
    if re.match(r"[a-z]+:", target):
        return False
    file, _, anchor = target.partition("#")
    to = (path.parent / file).resolve() if file else path
    inside = to.is_relative_to(ROOT) and to.exists()
    return not inside or bool(anchor and anchor not in anchors(to))


def named_paths(path: Path) -> Iterator[str]:
    """Paths in backticks that look like files or folders of the repository; not those that a table says are old."""
    for column, text in code(path):
        word = re.split(r"[: ]", text)[0]
        looks_like_a_path = re.fullmatch(r"[\w./*-]+", word) and (word.endswith(SUFFIXES) or word.endswith("/"))
        if looks_like_a_path and column != "old":
            yield word


def code(path: Path) -> Iterator[tuple[str, str]]:
    """Texts in backticks, each with the heading of its column in a table, or with nothing."""
    headings: list[str] = []
    column = 0
    for before, token in pairwise(tokens(path)):
        if token.type == "thead_open":
            headings = []
        elif token.type == "tr_open":
            column = 0
        if before.type == "th_open":
            headings.append(token.content)
        for child in token.children or ():
            if child.type == "code_inline":
                yield headings[column] if before.type == "td_open" else "", child.content
        column += before.type == "td_open"


@cache
def ignored(word: str) -> bool:
    """Return whether git ignores a path: it is an output, made on the user's machine."""
    return subprocess.run(["git", "check-ignore", "-q", "--no-index", word], cwd=ROOT, check=False).returncode == 0


@cache
def tracked_names() -> frozenset[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(PurePosixPath(line).name for line in listed.stdout.splitlines())


def missing(document: Path, word: str) -> bool:
    """Return whether a path in a document belongs to this repository and does not exist.

    A path is taken for the repository's if its first folder is there. A Python file or a document without a folder
    may be anywhere in the repository.
    """
    first, *rest = word.split("/")
    if not rest:
        return word.endswith((".py", ".md")) and word not in tracked_names() | EXTERNAL
    places = [ROOT / package for package in PACKAGES] + [document.parent]
    ours = [place for place in places if first not in ("", ".", "..") and (place / first).is_dir()]
    return bool(ours) and not ignored(word) and not any(_exists(place, word) for place in ours)


def _exists(place: Path, word: str) -> bool:
    return any(True for _ in place.glob(word.rstrip("/")))


@pytest.mark.parametrize("document", documents())
def test_relative_links_and_anchors_lead_somewhere(document: str) -> None:
    path = ROOT / document
    assert [target for target in targets(path) if broken(path, target)] == []


@pytest.mark.parametrize("document", documents())
def test_named_paths_exist(document: str) -> None:
    path = ROOT / document
    assert [word for word in named_paths(path) if missing(path, word)] == []


def test_the_index_lists_every_decision_once_and_in_order() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = [target for target in targets(folder / "README.md") if re.match(r"\d{4}-", target)]
    assert listed == sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    numbers = [int(name[:4]) for name in listed]
    assert numbers == list(range(1, len(listed) + 1))


def test_every_decision_has_all_its_parts() -> None:
    parts = ["Context", "Decision", "Consequences", "What measured it"]
    for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        title, *lines = path.read_text().splitlines()
        assert title.startswith(f"# {path.name[:4]}. "), path
        assert any(line.startswith("**Status:** ") for line in lines), path
        headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
        assert headings[: len(parts)] == parts, path


def test_the_architecture_stays_short() -> None:
    assert len((ROOT / "docs" / "architecture.md").read_text().splitlines()) <= LONGEST_ARCHITECTURE


def test_what_the_checks_must_find(tmp_path: Path) -> None:
    """The checks above fail where something is wrong."""
    page = ROOT / "docs" / "architecture.md"
    assert broken(page, "nowhere.md")
    assert broken(page, "#no-such-heading")
    assert broken(page, "../../outside.md")
    assert not broken(page, "#the-journey-of-an-image")
    assert missing(page, "runtime/no_such_module.py")
    assert missing(page, "condinst_deploy/model/no_such_folder/")
    assert missing(page, "no_such_module.py")
    assert not missing(page, "export/build/model.onnx")
    (tmp_path / "page.md").write_text("| old | new |\n| --- | --- |\n| `a/b.py` | `c/d.py: f` |\n\n`e/f.md` `g`\n")
    assert list(named_paths(tmp_path / "page.md")) == ["c/d.py", "e/f.md"]
