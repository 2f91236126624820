"""Text from files made safe to show: on a terminal, in a log, in an error message.

A class name, a key of a checkpoint or a file's name can hold anything: escape sequences that set a terminal's title,
line breaks that forge a line, marks that turn the direction of writing, a million characters.
"""

import re
import reprlib
import unicodedata
from typing import Any

LONGEST = 4000
"""Characters of a message that are shown; of a longer one the middle is left out."""

_JOINERS = "\u200c\u200d"
"""Format characters that words of some scripts, and emoji, are written with."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, format characters (bidi controls among them), surrogates and line separators."""

_SUSPECT = re.compile(r"[^ -~]")


def shown(text: object, longest: int = LONGEST) -> str:
    r"""`text` in one line that can be printed anywhere.

    Controls, line breaks, lone surrogates and bidi controls become escapes as Python writes them (`\x1b`, `\n`,
    `\ud800`). A text of more than `longest` characters is shortened, and says by how much.
    """
    return _SUSPECT.sub(_escaped, shortened(str(text), longest))


def shortened(text: str, longest: int) -> str:
    """Beginning and end of a text of more than `longest` characters, with the number of those that are left out."""
    if len(text) <= longest:
        return text
    end = longest // 4
    start = longest - end
    return f"{text[:start]}[... {len(text) - start - end:,} more characters ...]{text[-end:] if end else ''}"


def quoted_if_odd(name: str, longest: int = 60) -> str:
    """A name in a list as it can be told apart: in quotes if it is empty or has spaces at its ends."""
    text = shown(name, longest)
    return text if name and name == name.strip() else f"'{text}'"


def first_line(error: BaseException, longest: int = 200) -> str:
    """First line of what a library says about an error; the error's type if it says nothing."""
    return next((line.strip()[:longest] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shown_value(value: Any, longest: int = 60) -> str:
    """A value from a file as an error message quotes it.

    Values that contain others are cut off while they are written: lists that share their parts can be small in memory
    and endless as text. Whole numbers of thousands of digits are described, because Python refuses to write them.
    """
    return shown(_SHORT.repr(value), longest)


class _Short(reprlib.Repr):
    """`repr` of a bounded size, for subclasses of containers, too."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 4

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"a whole number of {x.bit_length():,} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: self.maxstring])

    def repr_instance(self, x: Any, level: int) -> str:
        for kind in (dict, list, tuple, set, frozenset, str, bytes, int):
            if isinstance(x, kind) and type(x) is not bool:
                return str(getattr(self, f"repr_{kind.__name__}")(x, level))
        without_own: Any = object.__repr__
        if type(x).__repr__ is without_own:  # the default names an address in memory
            return f"<{type(x).__name__}>"
        return str(super().repr_instance(x, level))


_SHORT = _Short()


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return ascii(character)[1:-1]


def told_apart(*numbers: float) -> tuple[str, ...]:
    """Numbers of one message with six digits, or with as many more as it takes that different ones look different."""
    for digits in range(6, 17):
        texts = tuple(_with_digits(number, digits) for number in numbers)
        if len(set(texts)) == len(set(numbers)):
            return texts
    return tuple(_with_digits(number, 17) for number in numbers)  # that many tell all apart


def _with_digits(number: float, digits: int) -> str:
    try:
        return f"{number:.{digits}g}"
    except OverflowError:  # a whole number that no float holds
        return shown_value(number)


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural if it is not one: `1,024 images`, `3 classes`."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
