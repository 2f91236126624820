"""Fonts of captions: the package's own, those of the system, and escapes where there is none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from condinst_deploy.imaging import fonts
from condinst_deploy.imaging.drawing import overlay
from condinst_deploy.masks import Masks


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only fonts of this machine, apart from the package's own."""
    monkeypatch.setattr(fonts, "font_folders", lambda: (tmp_path,))
    monkeypatch.setattr(fonts, "fontconfig_fonts", lambda: {})
    fonts.forget_fonts()
    yield tmp_path
    monkeypatch.undo()
    fonts.forget_fonts()


def write_font(path: Path, character: str) -> None:
    """A font with one glyph, a filled triangle, and a blank one for what is missing."""
    blank, triangle = TTGlyphPen(None), TTGlyphPen(None)
    triangle.moveTo((100, 0))
    triangle.lineTo((500, 800))
    triangle.lineTo((900, 0))
    triangle.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "mark"])
    builder.setupCharacterMap({ord(character): "mark"})
    builder.setupGlyf({".notdef": blank.glyph(), "mark": triangle.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "mark": (1000, 100)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(str(path))


def drawn(name: str) -> bytes:
    masks = Masks.from_dense(np.zeros((1, 80, 240), bool))
    box = np.array([[5, 40, 90, 70]], np.float32)
    return overlay(np.zeros((80, 240, 3), np.uint8), box, [name], masks).image.tobytes()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "cow"),
        ("\u0431\u044b\u043a", "\u043a\u043e\u0442"),  # Cyrillic
        ("\u0641\u064a\u0644", "\u062c\u0645\u0644"),  # Arabic
        ("\u732b", "\u72ac"),  # Chinese, for which this machine has no font
        ("\U0001f408", "\U0001f415"),  # emoji
        ("a\nb", "a\tb"),
        ("\ud800", "\udfff"),  # half of a pair each
    ],
)
def test_different_names_look_different(one: str, other: str) -> None:
    assert drawn(one) != drawn(other)


def test_the_own_font_has_the_letters_of_europe() -> None:
    assert (
        fonts.without_glyphs(
            [
                "Gr\u00fc\u00dfe",
                "\u017c\u00f3\u0142w",
                "\u03b3\u03ac\u03c4\u03b1",
                "\u0437\u0430\u044f\u0446",
                "\u05d7\u05ea\u05d5\u05dc",
            ]
        )
        == ""
    )


def test_characters_without_a_font_are_escaped_and_named() -> None:
    assert [run for run, _ in fonts.pieces("cat \u732b\u72ac 0.9", 12)] == ["cat ", r"\u732b\u72ac", " 0.9"]
    assert fonts.without_glyphs(["cat \u732b", "\u72ac\u732b"]) == "\u72ac\u732b"


def test_control_characters_are_escaped() -> None:
    assert "".join(run for run, _ in fonts.pieces("a\nb\u202ec\x1b\u3000d", 12)) == r"a\nb\u202ec\x1b d"


def test_a_font_of_the_system_has_what_the_own_one_lacks(folder: Path) -> None:
    (folder / "broken.ttf").write_bytes(b"no font")
    write_font(folder / "LastResort.ttf", "\u732b")  # draws all characters alike: never asked
    write_font(folder / "SomeCJK.ttf", "\u732b")
    runs = fonts.pieces("cat \u732b \u72ac", 12)
    assert [run for run, _ in runs] == ["cat ", "\u732b", " ", r"\u72ac"]
    assert [Path(str(font.path)).name for _, font in runs][1] == "SomeCJK.ttf"
    assert fonts.without_glyphs(["\u732b\u72ac"]) == "\u72ac"


def test_fontconfig_is_asked_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_font(elsewhere / "A.ttf", "\u732b")
    monkeypatch.setattr(fonts, "font_folders", lambda: ())
    monkeypatch.setattr(fonts, "fontconfig_fonts", lambda: {elsewhere / "A.ttf": fonts.CharacterSet("20 732a-732c")})
    assert fonts.without_glyphs(["\u732b\u72ac"]) == "\u72ac"


def test_a_machine_without_fontconfig_has_no_such_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert fonts.fontconfig_fonts() == {}


def test_fontconfig_is_started_once_for_all_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    program, calls = tmp_path / "fc-list", tmp_path / "calls"
    font = tmp_path / "a" / "Some\tCJK.ttf"
    font.parent.mkdir()
    write_font(font, "\u732b")
    program.write_text(f"#!/bin/sh\necho called >> {calls}\nprintf '{font}\\t20-7e 732b\\nno.ttf\\t\\nx.ttf\\tzz\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fonts, "font_folders", lambda: ())
    fonts.forget_fonts()
    others = "".join(map(chr, range(0x4E00, 0x4E80)))
    assert fonts.without_glyphs(["\u732b", others]) == others
    assert calls.read_text().splitlines() == ["called"]


def test_characters_of_a_font_are_those_of_its_ranges() -> None:
    characters = fonts.CharacterSet("a0-a2 20-7e 732b")
    assert [chr(c) in characters for c in (0x1F, 0x20, 0x7E, 0x7F, 0xA0, 0xA2, 0xA3, 0x732B, 0x732C)] == [
        *(False, True, True, False, True, True, False, True, False)
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("caf\u0065\u0301", ["c", "a", "f", "e\u0301"]),
        ("\u0915\u0941\u0924\u094d\u0924\u093e", ["\u0915\u0941", "\u0924\u094d", "\u0924\u093e"]),
        ("\u0645\u06cc\u200c\u062e", ["\u0645", "\u06cc\u200c", "\u062e"]),
        ("\U0001f469\u200d\U0001f680!", ["\U0001f469\u200d\U0001f680", "!"]),
        ("\u2764\ufe0f\U0001f44d\U0001f3fd", ["\u2764\ufe0f", "\U0001f44d\U0001f3fd"]),
        ("\u0301a", ["\u0301", "a"]),
        ("", []),
    ],
)
def test_marks_and_joiners_belong_to_their_letter(text: str, found: list[str]) -> None:
    assert fonts.clusters(text) == found


def test_letters_without_a_font_are_escaped_with_their_marks() -> None:
    """The own font draws a Devanagari mark alone as a box on a dotted circle."""
    (hindi,) = [run for run, _ in fonts.pieces("\u0915\u0941\u0924\u094d", 12)]
    assert hindi == r"\u0915\u0941\u0924\u094d"
    assert fonts.without_glyphs(["\u0915\u0941"]) == "\u0915\u0941"


def test_joiners_are_not_drawn() -> None:
    """Persian is written with them; no font needs a glyph for them."""
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert "\\" not in "".join(run for run, _ in fonts.pieces(f"{persian} \u2764\ufe0f", 12))
    assert fonts.without_glyphs([persian, "\u2764\ufe0f"]) == ""


def test_joiners_are_left_out_where_texts_are_not_shaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "SHAPES", False)
    assert [run for run, _ in fonts.pieces("a\u200cb\ufe0f", 12)] == ["ab"]
