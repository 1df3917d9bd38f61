"""Methods of reranking, as features of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.quality.configs import Config
from sluice_client import features

CANDIDATES = (20, 50)


@dataclass(frozen=True, slots=True)
class Method:
    """One way to answer."""

    name: str
    candidates: int
    """Number of candidates that are reranked; 0 where none is."""
    timed_share: float = 1.0
    """Share of the questions on which it is timed: slow ones on fewer."""
    expansion: bool = False

    @property
    def key(self) -> str:
        """Name with the number of candidates, as in `late@50`."""
        return f"{self.name}@{self.candidates}" if self.candidates else self.name

    @property
    def config(self) -> Config:
        """Features of its searches; a stage that is on and fails ends the bench."""
        method = self.name if self.candidates and not self.expansion else None
        on = features(
            dense=True,
            lexical=True,
            expansion=self.expansion,
            rerank=self.candidates > 0,
            rerank_method=method,
            rerank_candidate_count=self.candidates or None,
        )
        return Config(on, "")


HYBRID = Method("hybrid", 0)
EVERYTHING = Method("everything", 50, expansion=True)
"""Expansion by synonyms, and reranking as the gateway does it by default; timed only."""
_SHARES = {"late": 1.0, "cascade": 0.5, "cross_encoder": 0.1}
METHODS: Mapping[str, Method] = {
    method.key: method
    for method in [HYBRID, *(Method(name, count, share) for name, share in _SHARES.items() for count in CANDIDATES)]
}
"""By key, in the order of the table."""
