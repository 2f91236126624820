"""Range of an 8-bit tensor, from its histogram."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from condinst_export.quantization.calibration_options import Method
from condinst_export.quantization.histograms import Histogram

Format = Literal["uint8", "int8", "fp8"]
"""uint8 has a zero point; int8 and fp8 (E4M3) are symmetric."""

FORMATS: tuple[Format, ...] = get_args(Format)

LARGEST_FP8 = 448.0
"""Largest number of E4M3."""

SHARES = np.linspace(0.2, 1.0, 81)[::-1]
"""Parts of the whole range among which the methods `mse` and `entropy` decide; of equals the widest is taken."""

LEAST_PROBABILITY = 1e-4
"""Of all codes together, where the entropy method finds values that no code stands for: a divergence stays finite."""

LEAST = 1e-12
"""Half a range at least: a tensor of zeros still needs a scale."""


@dataclass(frozen=True)
class Range:
    """Values of the lowest and the highest code; zero lies between."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        """The larger side."""
        return max(-self.low, self.high, LEAST)


def range_of(histogram: Histogram, method: Method, kind: Format) -> Range:
    """The range of a tensor.

    Args:
        histogram: of its values.
        method: `max` keeps every value; `mse` has the least mean squared error; `entropy` keeps the distribution (the
            least Kullback-Leibler divergence).
        kind: the numbers that the range is cut into.
    """
    whole = Range(min(histogram.lowest, 0.0), max(histogram.highest, 0.0))
    if method == "max" or whole.magnitude <= LEAST:
        return whole
    loss = _squared_error if method == "mse" else _divergence
    return _with_least(loss, histogram, whole, kind)


def _with_least(
    loss: Callable[[Histogram, Range, Format], float], histogram: Histogram, whole: Range, kind: Format
) -> Range:
    losses = [loss(histogram, _shrunk(whole, share), kind) for share in SHARES]
    return _shrunk(whole, float(SHARES[int(np.argmin(losses))]))


def _shrunk(whole: Range, share: float) -> Range:
    return Range(whole.low * share, whole.high * share)


def _squared_error(histogram: Histogram, candidate: Range, kind: Format) -> float:
    values = histogram.centres
    return float((histogram.counts * (values - rounded(values, candidate, kind)) ** 2).sum())


def _divergence(histogram: Histogram, candidate: Range, kind: Format) -> float:
    """Kullback-Leibler divergence of what is left in 8 bits from the histogram.

    Values outside the range count at its ends. A code's values are taken as evenly spread over its bins. The bins next
    to zero are left out: every range has a code for zero, and a Relu puts half of all values there, which would make
    the narrowest range look best.
    """
    centres = histogram.centres
    counts = np.where(np.abs(centres) < histogram.edges[1] - histogram.edges[0], 0, histogram.counts).astype(np.float64)
    (inside,) = np.nonzero((centres >= candidate.low) & (centres <= candidate.high))
    if not len(inside) or not counts[inside].any():
        return float("inf")
    first, last = int(inside[0]), int(inside[-1])
    kept = counts[first : last + 1]
    found = kept.copy()
    found[0] += counts[:first].sum()
    found[-1] += counts[last + 1 :].sum()
    filled = found > 0
    _, codes = np.unique(rounded(centres[first : last + 1], candidate, kind), return_inverse=True)
    bins = np.maximum(np.bincount(codes, filled), 1)
    spread = np.where(filled, (np.bincount(codes, kept) / bins)[codes], 0.0)
    share, left = found / found.sum(), spread / spread.sum()
    left = np.maximum(left, LEAST_PROBABILITY / len(left))
    return float((share[filled] * np.log(share[filled] / left[filled])).sum())


def affine(candidate: Range) -> tuple[float, int]:
    """Scale and zero point of uint8."""
    low, high = min(candidate.low, 0.0), max(candidate.high, 0.0)
    scale = float(np.float32(max(high - low, LEAST) / 255))
    return scale, int(np.clip(np.rint(-low / scale), 0, 255))


def symmetric_scale(candidate: Range, kind: Format) -> float:
    """Scale of int8 or fp8."""
    return float(np.float32(candidate.magnitude / (LARGEST_FP8 if kind == "fp8" else 127)))


def rounded(values: npt.NDArray[np.float64], candidate: Range, kind: Format) -> npt.NDArray[np.float64]:
    """Return values after rounding to 8 bits."""
    if kind == "uint8":
        scale, zero = affine(candidate)
        codes = np.clip(np.rint(values / scale) + zero, 0, 255)
        return np.asarray((codes - zero) * scale, dtype=np.float64)
    scale = symmetric_scale(candidate, kind)
    if kind == "int8":
        return np.asarray(np.clip(np.rint(values / scale), -128, 127) * scale, dtype=np.float64)
    narrow = np.clip(values / scale, -LARGEST_FP8, LARGEST_FP8).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return np.asarray(narrow.astype(np.float64) * scale, dtype=np.float64)
