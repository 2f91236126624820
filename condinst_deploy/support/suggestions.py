"""Suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A sentence with the known name that a given one is close to, after a full stop; empty if there is none."""
    if not isinstance(given, str):
        return ""
    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(given.strip().casefold(), by_folded, n=1, cutoff=0.75)
    return f". Did you mean {by_folded[close[0]]!r}?" if close else ""
