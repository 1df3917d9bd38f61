"""Order by maximal marginal relevance.

Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries"
(1998): one after the other, the passage comes next whose relevance, less its similarity to the most similar one before
it, is the highest. Relevance is the score, scaled so that the worst passage has 0 and the best 1; similarity is the
cosine of the vectors. `diversity` is their 1 - lambda.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.chassis.errors import InvalidArgument

MAX_DIVERSIFIED = 200


def diversify(scores: Sequence[float], vectors: npt.NDArray[np.float32], diversity: float) -> list[int]:
    """Return the places of all passages in their new order; of equal ones the earlier comes first.

    There is at least one passage. `vectors` has a row of length 1 for each passage; one of zeros is similar to none.
    """
    relevance = np.asarray(scores, dtype=np.float64)
    relevance -= relevance.min()
    relevance /= relevance.max() or 1.0
    similarity = (vectors @ vectors.T).astype(np.float64)
    # Of each passage, to the most similar one before it.
    nearest = np.zeros(len(scores))
    order: list[int] = []
    while len(order) < len(scores):
        marginal = (1 - diversity) * relevance - diversity * nearest
        marginal[order] = -math.inf
        chosen = int(np.argmax(marginal))
        nearest = np.maximum(nearest, similarity[chosen]) if order else similarity[chosen]
        order.append(chosen)
    return order


def check_diversify(ids: Sequence[str], scores: Sequence[float], diversity: float) -> None:
    """Raise InvalidArgument for what cannot be put in order."""
    if not 1 <= len(ids) <= MAX_DIVERSIFIED:
        raise InvalidArgument("ids", f"has {len(ids)} entries; send 1 to {MAX_DIVERSIFIED}")
    if len(set(ids)) != len(ids):
        raise InvalidArgument("ids", "names a passage twice; send each id once", reason="DUPLICATE_ID")
    if len(scores) != len(ids):
        raise InvalidArgument("scores", f"has {len(scores)} entries, and ids has {len(ids)}; send one for each")
    if not all(map(math.isfinite, scores)):
        raise InvalidArgument("scores", "has a value that is not a finite number")
    if not 0 <= diversity <= 1:
        raise InvalidArgument("diversity", f"is {diversity:g}; send 0 to 1")
