"""Fewer token vectors: those that are alike become their mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.late.products import products

Vectors = NDArray[np.float32]


def pool(vectors: Vectors, groups: int) -> Vectors:
    """Return the means [groups, n] of like vectors [rows, n]; the vectors themselves if there are no more than that.

    Ward's clustering (Ward, 1963): the two groups go together whose merging adds the least to the squared distances
    from the means. Pooling of token vectors is from Clavie, Chaffin and Adams, 2024.
    """
    count = len(vectors)
    if count <= groups:
        return vectors
    means, sizes = vectors.copy(), np.ones(count, dtype=np.float32)
    squares = (means * means).sum(axis=1)
    costs = (squares[:, None] + squares - 2 * products(means, means)) / 2
    np.fill_diagonal(costs, np.inf)
    for _ in range(count - groups):
        kept, gone = divmod(int(costs.argmin()), count)
        size = sizes[kept] + sizes[gone]
        means[kept] = (means[kept] * sizes[kept] + means[gone] * sizes[gone]) / size
        sizes[kept], sizes[gone] = size, 0
        costs[gone] = costs[:, gone] = np.inf
        differences = means - means[kept]
        row = (differences * differences).sum(axis=1) * (sizes * size / (sizes + size))
        row[sizes == 0] = row[kept] = np.inf
        costs[kept] = costs[:, kept] = row
    return means[sizes > 0]
