"""Products of matrices in one thread.

For a large one numpy would wake a thread for each processor, and these spin for milliseconds after it. OpenBLAS
computes products of fewer multiplications than 2**18 in the thread that asks. Measured, of 140 x 128 with itself:
0.2 ms of processor time instead of 6.8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PART = 2**17


def products(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the dot products of the rows of both: [rows of one, rows of the other]."""
    step = max(1, _PART // other.size)
    return np.concatenate([one[start : start + step] @ other.T for start in range(0, len(one), step)])
