"""Fonts for captions: the package's own, one of the system's for other scripts, and escapes where no font has a glyph.

DejaVu Sans travels with the package (its free licence lies beside it). It has Latin, Greek, Cyrillic, Hebrew, Arabic,
Armenian and Georgian letters. Chinese, Japanese and Korean take a font of the system.
"""

import os
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

from PIL import ImageFont

OWN_FONT = "DejaVuSans.ttf"
PROBE_SIZE = 24  # pixels
NO_CHARACTER = "\uffff"
"""No font has a glyph for it, so that it is drawn as each font draws a missing glyph."""

SUFFIXES = frozenset({".ttf", ".otf", ".ttc"})
MOST_TRIED = 64
"""Fonts that are opened for one character, and fallback fonts that are kept."""

LIKELY = ("cjk", "sourcehan", "wqy", "wenquanyi", "fallback", "noto", "gothic", "hei", "yahei", "pingfang", "hiragino")
"""Parts of names of fonts with many scripts; these files are opened first."""

PLACEHOLDERS = ("lastresort", "blank")
"""Parts of names of fonts that draw every character alike."""

_fallbacks: list[Path] = []


def pieces(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    r"""Cut a text into runs with a font for each; characters that no font has become escapes such as `\u732b`."""
    runs: list[tuple[str, ImageFont.FreeTypeFont]] = []
    # spaces of every width are one space; control and format characters have no font and are escaped
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in text)
    for path, characters in groupby(spaced, _font_for):
        run = "".join(characters)
        if path is None:
            run = "".join(_escaped(character) for character in run)
        runs.append((run, _font(path or own_font(), size)))
    return runs


def without_glyphs(texts: Iterable[str]) -> str:
    """Return the characters of the texts that no font on this machine draws, each once, sorted."""
    return "".join(sorted({c for text in texts for c in text if c.isprintable() and _font_for(c) is None}))


def own_font() -> Path:
    """Return the file of the font that travels with the package."""
    return Path(__file__).with_name("fonts") / OWN_FONT


def forget_fonts() -> None:
    """Forget which fonts were found, so that fonts which were installed since then are found."""
    _fallbacks.clear()
    for cached in (_font_for, _font, _font_files):
        cached.cache_clear()


@lru_cache(4096)
def _font_for(character: str) -> Path | None:
    """Return the first font that has the character; None if no font has it, or if it is not printable."""
    if not character.isprintable():
        return None
    for path in (own_font(), *_fallbacks):
        if _has(path, character):
            return path
    for path in islice(_system_fonts(character), MOST_TRIED):
        if _has(path, character):
            if len(_fallbacks) < MOST_TRIED:
                _fallbacks.append(path)
            return path
    return None


def _has(path: Path, character: str) -> bool:
    """Return whether a font has a glyph for the character."""
    if character == " ":
        return path == own_font()
    try:
        return _bitmap(path, character) != _bitmap(path, NO_CHARACTER)
    except (OSError, ValueError):  # damaged, or with bitmaps of other sizes only
        return False


def _bitmap(path: Path, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(path, PROBE_SIZE).getmask(character)
    return mask.size, bytes(mask)


@lru_cache(64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


def _system_fonts(character: str) -> Iterator[Path]:
    """Yield files of the system that may have the character: what fontconfig says, then known folders."""
    named = fontconfig_fonts(character)
    yield from sorted(named, key=_preference)
    yield from (path for path in _font_files() if path not in named)


def fontconfig_fonts(character: str) -> set[Path]:
    """Return the fonts that fontconfig names for a character; none where there is no fontconfig."""
    command = ("fc-list", f":charset={ord(character):x}", "--format", "%{file}\\n")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):  # there is no fontconfig
        return set()
    return {path for path in map(Path, done.stdout.splitlines()) if _is_usable(path)}


@lru_cache(1)
def _font_files() -> tuple[Path, ...]:
    """Return the fonts of known folders, those with many scripts first."""
    found = {path for folder in font_folders() if folder.is_dir() for path in folder.rglob("*") if _is_usable(path)}
    return tuple(sorted(found, key=_preference))


def font_folders() -> tuple[Path, ...]:
    """Return where Linux, macOS and Windows keep fonts."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home raises where there is none)
    windows = Path(os.environ.get("WINDIR", "C:/Windows"))
    return (
        Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".fonts", home / ".local/share/fonts",
        Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts", windows / "Fonts",
    )  # fmt: skip


def _is_usable(path: Path) -> bool:
    name = path.name.lower()
    return path.suffix.lower() in SUFFIXES and not any(part in name for part in PLACEHOLDERS)


def _preference(path: Path) -> tuple[bool, bool, bool, str]:
    name = path.name.lower()
    return not any(part in name for part in LIKELY), "sans" not in name, "bold" in name or "black" in name, str(path)


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if not character.isascii() else repr(character)[1:-1]
