"""Fonts for captions: the package's own, one of the system's for other scripts, and escapes where no font has a glyph.

DejaVu Sans travels with the package (its free licence lies beside it). It has Latin, Greek, Cyrillic, Hebrew, Arabic,
Armenian and Georgian letters. Chinese, Japanese and Korean take a font of the system.
"""

import os
import subprocess
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

from PIL import ImageFont, features

OWN_FONT = "DejaVuSans.ttf"
PROBE_SIZE = 24  # pixels
NO_CHARACTER = "\uffff"
"""No font has a glyph for it, so that it is drawn as each font draws a missing glyph."""

ZERO_WIDTH_JOINER = "\u200d"
JOINERS = frozenset({0x200C, 0x200D, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)})
"""Joiners and variation selectors: nothing is drawn for them, but they change how their neighbours are drawn."""

_WITHOUT_JOINERS = dict.fromkeys(JOINERS)

SHAPES = features.check("raqm")
"""Whether Pillow shapes texts: without it a joiner is drawn as a character."""

SUFFIXES = frozenset({".ttf", ".otf", ".ttc"})
MOST_TRIED = 64
"""Fonts that are opened for one character, and fallback fonts that are kept."""

LIKELY = ("cjk", "sourcehan", "wqy", "wenquanyi", "fallback", "noto", "gothic", "hei", "yahei", "pingfang", "hiragino")
"""Parts of names of fonts with many scripts; these files are opened first."""

PLACEHOLDERS = ("lastresort", "blank")
"""Parts of names of fonts that draw every character alike."""

_fallbacks: list[Path] = []


class CharacterSet:
    """Code points of a font."""

    def __init__(self, ranges: str) -> None:
        """Read hexadecimal numbers and ranges as fontconfig writes them: `20-7e a0`.

        Raises:
            ValueError: they are something else.
        """
        pairs = sorted(tuple(int(end, 16) for end in (part.split("-") * 2)[:2]) for part in ranges.split())
        self._firsts, self._lasts = [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def __contains__(self, character: str) -> bool:
        place = bisect_right(self._firsts, ord(character)) - 1
        return place >= 0 and ord(character) <= self._lasts[place]


def pieces(text: str, size: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    r"""Cut a text into runs with a font for each; characters that no font has become escapes such as `\u732b`.

    A letter and its marks have one font, or are escaped together: a mark alone would be drawn on a dotted circle.
    """
    runs: list[tuple[str, ImageFont.FreeTypeFont]] = []
    # spaces of every width are one space; control and format characters have no font and are escaped
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in text)
    for path, together in groupby(clusters(spaced), _font_for):
        run = "".join(together)
        if path is None:
            run = "".join(_escaped(character) for character in run)
        elif not SHAPES:
            run = run.translate(_WITHOUT_JOINERS)
        runs.append((run, _font(path or own_font(), size)))
    return runs


def clusters(text: str) -> list[str]:
    """Cut a text into characters with the marks, joiners and modifiers that belong to them."""
    found: list[str] = []
    for character in text:
        if found and (_is_attached(character) or found[-1].endswith(ZERO_WIDTH_JOINER)):
            found[-1] += character
        else:
            found.append(character)
    return found


def _is_attached(character: str) -> bool:
    return (
        unicodedata.combining(character) > 0
        or unicodedata.category(character) in ("Mn", "Mc", "Me")
        or ord(character) in JOINERS
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
    )


def without_glyphs(texts: Iterable[str]) -> str:
    """Return the characters of the texts that no font on this machine draws, each once, sorted."""
    missing = {c for text in texts for c in clusters(text) if c.isprintable() and _font_for(c) is None}
    alone = {c for cluster in missing for c in cluster if ord(c) not in JOINERS and _font_for(c) is None}
    # of letters and marks that no font has together, the marks
    apart = {c for cluster in missing if alone.isdisjoint(cluster) for c in cluster if _is_attached(c)}
    return "".join(sorted(alone | apart))


def own_font() -> Path:
    """Return the file of the font that travels with the package."""
    return Path(__file__).with_name("fonts") / OWN_FONT


def forget_fonts() -> None:
    """Forget which fonts were found, so that fonts which were installed since then are found."""
    _fallbacks.clear()
    for cached in (_font_for, _font, _probe, _font_files, _known_fonts):
        cached.cache_clear()


@lru_cache(4096)
def _font_for(cluster: str) -> Path | None:
    """Return the first font that has a character and its marks; None if none has them, or one is not printable."""
    visible = "".join(character for character in cluster if ord(character) not in JOINERS)
    if not visible or not visible.isprintable():
        return None
    for path in (own_font(), *_fallbacks):
        if _has(path, visible):
            return path
    for path in islice(_system_fonts(visible), MOST_TRIED):
        if _has(path, visible):
            if len(_fallbacks) < MOST_TRIED:
                _fallbacks.append(path)
            return path
    return None


def _has(path: Path, characters: str) -> bool:
    """Return whether a font has a glyph for each of the characters."""
    if characters == " ":
        return path == own_font()
    try:
        missing = _bitmap(path, NO_CHARACTER)
        return all(_bitmap(path, character) != missing for character in characters)
    except (OSError, ValueError):  # damaged, or with bitmaps of other sizes only
        return False


def _bitmap(path: Path, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _probe(path).getmask(character)
    return mask.size, bytes(mask)


@lru_cache(64)
def _probe(path: Path) -> ImageFont.FreeTypeFont:
    """The font without shaping, which would put a dotted circle below a mark that stands alone."""
    return ImageFont.truetype(str(path), PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(64)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size)


def _system_fonts(characters: str) -> Iterator[Path]:
    """Yield files of the system that may have the characters: what fontconfig says, then known folders."""
    known = _known_fonts()
    yield from sorted((path for path, has in known.items() if all(c in has for c in characters)), key=_preference)
    yield from (path for path in _font_files() if path not in known)


@lru_cache(1)
def _known_fonts() -> dict[Path, CharacterSet]:
    return fontconfig_fonts()


def fontconfig_fonts() -> dict[Path, CharacterSet]:
    """Return the fonts that fontconfig knows and their characters; none where there is no fontconfig."""
    command = ("fc-list", "--format", "%{file}\t%{charset}\n")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):  # there is no fontconfig
        return {}
    found: dict[Path, CharacterSet] = {}
    for line in done.stdout.splitlines():
        name, _, ranges = line.rpartition("\t")
        if _is_usable(path := Path(name)):
            with suppress(ValueError):  # a font without characters
                found[path] = CharacterSet(ranges)
    return found


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
