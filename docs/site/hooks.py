"""MkDocs hooks: documents that lie beside the code are pages of the site, and their links hold on both sides.

The site's root is `docs/`. README.md becomes the first page. Other documents keep their path in the repository. A link
to a file that is no page, such as LICENSE or an example, leads to a copy of it.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = "docs"
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "benchmarks/peers/README.md": "benchmarks/peers/README.md",
    "demo/README.md": "demo/README.md",
    "engines/README.md": "engines/README.md",
    "examples/README.md": "examples/README.md",
    "export/README.md": "export/README.md",
}
"""Documents outside `docs/`: path in the repository -> path in the site."""

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside `docs/`, and the files that documents link to."""
    root = Path(config.config_file_path).parent
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(root / source)))
    pages = [file for file in files.documentation_pages() if file.abs_src_path]
    for path in sorted({path for page in pages for path in _linked(_repository_path(page.src_uri), page)}):
        if files.get_file_from_path(_site_path(path)) is None and (root / path).is_file():
            files.append(File.generated(config, _site_path(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's relative links from paths of the repository to paths of the site."""
    source = _repository_path(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        path = _resolved(source, match[2])
        if path is None:
            return match[0]
        return match[1] + relpath(_site_path(path), str(PurePosixPath(page.file.src_uri).parent)) + match[3]

    return LINK.sub(rewritten, markdown)


def _linked(source: str, page: File) -> Iterator[str]:
    """Paths in the repository that a page links to."""
    for match in LINK.finditer(page.content_string):
        path = _resolved(source, match[2])
        if path is not None:
            yield path


def _resolved(source: str, target: str) -> str | None:
    """The path in the repository that a link of the document `source` leads to; None for another host's address."""
    if re.match(r"[a-z]+:", target):
        return None
    return normpath(str(PurePosixPath(source).parent / target))


def _repository_path(site_path: str) -> str:
    for source, target in PAGES.items():
        if target == site_path:
            return source
    return f"{DOCS}/{site_path}"


def _site_path(repository_path: str) -> str:
    if repository_path in PAGES:
        return PAGES[repository_path]
    return repository_path.removeprefix(f"{DOCS}/")
