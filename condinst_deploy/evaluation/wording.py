"""Metrics as people read them: the same words on the terminal and in the report."""

from decimal import ROUND_DOWN, Decimal

DASH = "\u2013"
"""Text in place of a metric that does not exist."""


def points_text(value: float | None) -> str:
    """AP points, two decimals."""
    return DASH if value is None else f"{value:.2f}"


def change_text(value: float | None) -> str:
    """A difference in AP points with its sign; 0.00 has none."""
    if value is None:
        return ""
    text = f"{value:+.2f}"
    return text[1:] if text[1:] == "0.00" else text


def metric_text(cell: tuple[float | None, float | None]) -> str:
    """AP points for a terminal, with the difference from the reference in brackets; "-" where there is no metric."""
    value, change = cell
    shown = "-" if value is None else f"{value:.2f}"
    return shown if change is None else f"{shown} ({change_text(change)})"


def percent_text(share: float) -> str:
    """Two decimals, cut off and not rounded: 100 % means all."""
    return f"{_cut(100 * _decimal(share), 2)} %"


def iou_text(value: float | None) -> str:
    """Five decimals, cut off and not rounded: 1 means equal."""
    return DASH if value is None else _cut(_decimal(value), 5)


def small_text(value: float | None) -> str:
    """Three digits of a small difference."""
    return DASH if value is None else f"{value:.3g}"


def _decimal(value: float) -> Decimal:
    """The shortest decimal number that is read as this float: 0.0003, not 0.00029999..."""
    return Decimal(repr(float(value)))


def _cut(value: Decimal, decimals: int) -> str:
    return str(value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_DOWN))
