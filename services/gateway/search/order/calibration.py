"""Relevance of a passage, from 0 to 1, by the score of the stage that looked at it last."""

from __future__ import annotations

from typing import NamedTuple

from services.gateway.search.satisfaction import satisfaction


class Calibration(NamedTuple):
    """A logistic function of a score (Platt, 1999)."""

    slope: float
    middle: float
    """The score of a passage that is relevant as likely as not."""

    def relevance(self, score: float) -> float:
        """Estimate the probability that a passage with this score is relevant."""
        return satisfaction(self.slope * (score - self.middle))


# Fitted to the first 20 candidates of training questions of HotpotQA and MuSiQue, with the default models, as
# `python -m bench.rerank.tune` does; the cross-encoder read 512 tokens of each. Other models rank as well, and their
# relevance is a rough guess.
CROSS_ENCODER = Calibration(slope=0.343, middle=3.94)
LATE = Calibration(slope=52.3, middle=0.877)


def relevance(late: float | None, logit: float | None) -> float | None:
    """Estimate the relevance by the cross-encoder's logit, or else by late interaction's score."""
    if logit is not None:
        return CROSS_ENCODER.relevance(logit)
    return None if late is None else LATE.relevance(late)
