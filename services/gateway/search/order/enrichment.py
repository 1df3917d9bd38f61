"""An estimate of whether the first results hold all that an answer needs, after relations were followed.

A logistic function of three numbers, fitted on training questions that take more than one passage (HotpotQA, MuSiQue)
by whether all of their passages were among the first five: area under the curve .83 and .75, fitted on one and tested
on the other .80 and .76 (docs/quality.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from services.gateway.search.stages import Candidate

FIRST = 5
"""Number of the first results that are looked at."""
_CONNECTED, _BEST, _EVENNESS, _OFFSET = 0.56, 0.58, -5.7, 2.8


def enrichment_score(candidates: Sequence[Candidate], first: Sequence[Candidate]) -> float:
    """Estimate the probability that the first five results hold all that an answer needs.

    It is high where these lead to one another, where the searches agree on the best candidate, and where the fifth
    candidate of the first stage is much worse than the first.
    """
    if not first:
        return 0.0
    ids = {one.passage.id for one in first}
    connected = sum(bool(one.path) and one.path[-1].passage_id in ids for one in first)
    best = candidates[0].score
    fifth = candidates[FIRST - 1].score if len(candidates) >= FIRST else 0.0
    evenness = fifth / best if best > 0 else 1.0
    return 1 / (1 + math.exp(-(_CONNECTED * connected + _BEST * best + _EVENNESS * evenness + _OFFSET)))
