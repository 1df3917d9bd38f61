"""Percentiles of samples and of histograms, defined once for product, benchmarks and drills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def percentile(values: Sequence[float] | NDArray[Any], percent: float) -> float:
    """Percentile of a sample, linear between the two nearest values (numpy's default); nan of an empty one."""
    return float(np.percentile(values, percent)) if len(values) else math.nan


def histogram_percentile(counts: ArrayLike, lower: ArrayLike, upper: ArrayLike, percent: float) -> NDArray[np.float64]:
    """Percentile of each row of counts, linear within its bucket, as in Prometheus; nan of an empty row.

    `lower` and `upper` are the edges of the buckets, in ascending order. A percentile in a bucket whose upper edge is
    infinite is that bucket's lower edge.
    """
    rows = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if not rows.size:
        return np.full(len(rows), math.nan)
    reached = rows.cumsum(axis=1)
    wanted = reached[:, -1] * percent / 100
    # The first bucket that is not empty and reaches what is wanted.
    place = ((reached >= wanted[:, None]) & (rows > 0)).argmax(axis=1)
    inside = rows[np.arange(len(rows)), place]
    before = reached[np.arange(len(rows)), place] - inside
    width = np.where(np.isfinite(high), high - low, 0.0)[place]
    with np.errstate(invalid="ignore"):
        at = low[place] + width * np.clip((wanted - before) / inside, 0.0, 1.0)
    return np.where(reached[:, -1] > 0, at, math.nan)
