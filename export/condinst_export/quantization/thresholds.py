"""Range of an 8-bit tensor, from its histogram."""

import contextlib
import io
from dataclasses import dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from condinst_export.quantization.histograms import Histogram, histogram_collector
from condinst_export.quantization.options import Method

Format = Literal["uint8", "int8", "fp8"]
"""uint8 has a zero point; int8 and fp8 (E4M3) are symmetric."""

FORMATS: tuple[Format, ...] = get_args(Format)

LARGEST_FP8 = 448.0
"""Largest number of E4M3."""

SHARES = np.linspace(0.2, 1.0, 81)
"""Parts of the whole range among which the mean squared error decides."""

CODES = 256
"""Number of 8-bit codes: the entropy method compares the histogram with one of this many levels."""

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
            least Kullback-Leibler divergence, by ONNX Runtime).
        kind: the numbers that the range is cut into.
    """
    whole = Range(min(histogram.lowest, 0.0), max(histogram.highest, 0.0))
    if method == "max":
        return whole
    if method == "entropy":
        return _by_entropy(histogram, whole, kind)
    errors = [_squared_error(histogram, _shrunk(whole, share), kind) for share in SHARES]
    return _shrunk(whole, float(SHARES[int(np.argmin(errors))]))


def _shrunk(whole: Range, share: float) -> Range:
    return Range(whole.low * share, whole.high * share)


def _by_entropy(histogram: Histogram, whole: Range, kind: Format) -> Range:
    if whole.magnitude <= LEAST:
        return whole
    # bins are symmetric around zero, and uint8 spends no code on a side without values
    levels = 2 * CODES if kind == "uint8" and whole.low == 0 else CODES
    collector = histogram_collector(len(histogram.counts), levels)
    entry = (histogram.counts, histogram.edges, np.float32(whole.low), np.float32(whole.high))
    with contextlib.redirect_stdout(io.StringIO()):
        low, high = collector.get_entropy_threshold(entry, levels)
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _squared_error(histogram: Histogram, candidate: Range, kind: Format) -> float:
    values = histogram.centres
    return float((histogram.counts * (values - rounded(values, candidate, kind)) ** 2).sum())


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
