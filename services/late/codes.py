"""Token vectors as bytes, and the similarity that a comparison of bytes means.

Search engines know multivectors of unsigned bytes, but no sign and no scale. An offset makes values positive, and would
add to a dot product what depends on the row. So vectors are turned into a space of one dimension more in which every
row sums to 0, and rounded so that the sum stays: then the offset adds the same to every product, and the order is that
of the cosines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.late.products import products

Codes = NDArray[np.uint8]
"""Rows of bytes: [rows, dimension]."""

ZERO = 128
"""Code of the value 0."""
SCALE = 254
"""Steps from 0 to 1. A value beyond half is cut, which unit vectors of a hundred dimensions do not have once turned."""


def encode(vectors: NDArray[np.float32]) -> Codes:
    """Turn rows [rows, n], none of them zero, into bytes [rows, n + 1]; they are scaled to length 1 first."""
    whole = vectors.astype(np.float64)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    values = np.clip(_turned(unit) * SCALE, -ZERO, ZERO - 1)
    steps = np.floor(values)
    # The rows sum to 0 but for what was cut: as many values are rounded up as it takes, those nearest to it.
    lacking = np.clip(-steps.sum(axis=1), 0, values.shape[1]).astype(int)
    places = np.argsort(steps - values, axis=1, kind="stable")
    raised = np.arange(values.shape[1]) < lacking[:, None]
    np.put_along_axis(steps, places, np.take_along_axis(steps, places, axis=1) + raised, axis=1)
    codes: Codes = (np.clip(steps, -ZERO, ZERO - 1) + ZERO).astype(np.uint8)
    return codes


def similarity(score: float, rows: int, dimension: int) -> float:
    """Return the mean cosine that a sum of dot products means: one for each of the query's rows (MaxSim)."""
    return (score / rows - ZERO * ZERO * dimension) / (SCALE * SCALE)


def best_products(query: Codes, rows: Codes) -> NDArray[np.float32]:
    """Return the greatest dot product of each row of a query with one of these rows: [query rows].

    Their sum is MaxSim. Of several passages together it is the sum of the greatest for each row.
    """
    best: NDArray[np.float32] = products(rows.astype(np.float32), query.astype(np.float32)).max(axis=0)
    return best


def _turned(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn rows [rows, n] into rows [rows, n + 1] that sum to 0: as amplitudes of cosines, without the constant one.

    That spreads each dimension over all: models have single dimensions of 0.9, which would be cut. By a Fourier
    transform instead of a product of matrices, for which numpy would set all processors spinning.
    """
    size = unit.shape[1] + 1
    spectrum = np.zeros((len(unit), size + 1), complex)
    spectrum[:, 1:size] = unit * np.exp(1j * np.pi / (2 * size) * np.arange(1, size))
    turned: NDArray[np.float64] = np.fft.irfft(spectrum, 2 * size, axis=1)[:, :size] * np.sqrt(2 * size)
    return turned
