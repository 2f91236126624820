"""The documentation site builds strictly, is complete, and fetches nothing when it is read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\bsrc=\"?(?:https?:)?//|<link(?![^>]*canonical)[^>]*href=\"?https?://"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    pages = [path if path.name != "README.md" else path.with_name("index.md") for path in documents]
    assert [str(page) for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


def test_the_menu_names_every_document_but_single_decisions() -> None:
    menu = re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M)
    documents = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {name for name in documents if not re.match(r"decisions/\d", name)} <= set(menu)


def test_a_page_fetches_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    assert [page.name for page in pages if FETCHED.search(page.read_text())] == []
    # Material's script would load Mermaid from another host for such an element
    assert [page.name for page in pages if '<pre class="mermaid"' in page.read_text()] == []


def test_links_of_the_front_page_lead_to_pages_and_files(site: Path) -> None:
    links = re.findall(r'href="([^"#:]+)"', (site / "index.html").read_text())
    assert {"docs/architecture.html", "LICENSE"} & set(links) == {"LICENSE"}
    assert "architecture.html" in links
    assert [link for link in links if not (site / link).exists()] == []


def test_the_reference_documents_the_public_names(site: Path) -> None:
    import condinst_deploy

    text = "".join(path.read_text() for path in (site / "reference").glob("condinst_deploy.html"))
    named = [name for name in condinst_deploy.__all__ if not name.startswith("__")]
    assert [name for name in named if f'.{name}"' not in text] == []
