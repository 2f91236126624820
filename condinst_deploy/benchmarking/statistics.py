"""Statistics of measured times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

RESAMPLES = 2000
"""Number of bootstrap samples: 50 medians then lie beyond each end of a 95 % interval."""


@dataclass(frozen=True)
class Distribution:
    """Times of equal calls."""

    median_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Percentiles, linear between the two nearest times; of few calls the high ones are almost the slowest."""
        return cls(*(round(1e3 * float(value), 4) for value in np.percentile(seconds, (50, 95, 99))))


@dataclass(frozen=True)
class Ratio:
    """Time of one model divided by the time of another: median over pairs, with its 95 % interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float], others: Sequence[float], seed: int = 0) -> Self:
        """Ratios of times that were measured one right after the other.

        A drift of the machine is in both times of a pair, so it leaves their ratio alone; a ratio of two medians
        would have it. The interval is the percentile bootstrap of the median, resampling pairs.

        Args:
            seconds: one time a pair, of the model.
            others: as many, of what it is compared with.
            seed: of the resampling.
        """
        ratios = np.asarray(seconds, dtype=np.float64) / np.asarray(others, dtype=np.float64)  # (pairs,)
        picked = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
        low, high = np.percentile(np.median(ratios[picked], axis=1), (2.5, 97.5))
        return cls(*(round(float(value), 4) for value in (np.median(ratios), low, high)))
