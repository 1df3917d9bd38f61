from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.inference.models.info import ModelInfo
from services.inference.models.tokenization import TokenizedPair
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.reranker.metrics import RerankerMetrics
from services.reranker.scorer import Scorer


class SharedLetters:
    """A cross-encoder whose score is the number of letters that query and passage share."""

    model = ModelInfo(
        name="letters",
        fingerprint="letters",
        dimension=1,
        max_token_count=64,
        backend="none",
        precision="fp32",
        device="cpu",
    )

    passage_tokens = 64

    def __init__(self) -> None:
        self.passes: list[int] = []

    def width(self, token_count: int) -> int:
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        pass

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        pairs = []
        for passage in passages:
            kept = (query + passage)[: self.model.max_token_count]
            types = [0] * len(query) + [1] * (len(kept) - len(query))
            pairs.append(TokenizedPair([ord(letter) for letter in kept], types, len(query + passage) > len(kept)))
        return pairs

    def score(self, pairs: Sequence[TokenizedPair]) -> np.ndarray:
        self.passes.append(len(pairs))
        return np.array([_shared(pair) for pair in pairs], dtype=np.float32)


def _shared(pair: TokenizedPair) -> int:
    sides: list[set[int]] = [set(), set()]
    for letter, side in zip(pair.ids, pair.type_ids, strict=True):
        sides[side].add(letter)
    return len(sides[0] & sides[1])


async def score(backend: SharedLetters, query: str, *passages: str) -> tuple[list[float], int]:
    async with Scorer(backend, SchedulerLimits(), SchedulerObserver()) as scorer:
        scored = await scorer.score(query, passages, lane=Lane.INTERACTIVE, caller="me", deadline=None)
        return list(scored.results), scored.truncated_count


async def test_scores_come_in_the_order_of_the_passages() -> None:
    assert await score(SharedLetters(), "abc", "xyz", "cab", "bx") == ([0.0, 3.0, 1.0], 0)


async def test_a_passage_that_does_not_fit_is_scored_by_its_start_and_counted() -> None:
    assert await score(SharedLetters(), "a", "x" * 80 + "a", "a") == ([0.0, 1.0], 1)


async def test_the_same_ids_of_different_sides_are_different_pairs() -> None:
    backend = SharedLetters()
    async with Scorer(backend, SchedulerLimits(), SchedulerObserver()) as scorer:
        results = [
            (await scorer.score(query, [passage], lane=Lane.BULK, caller="me", deadline=None)).results
            for query, passage in (("ab", "a"), ("a", "ba"), ("ab", "a"))
        ]
    assert results == [[1.0], [1.0], [1.0]]
    assert backend.passes == [1, 1]  # the third was in the cache


@pytest.mark.parametrize(("scores", "spreads"), [([1.5], 0), ([1.5, -0.5], 1)])
def test_the_spread_is_observed_of_calls_with_several_passages(scores: list[float], spreads: int) -> None:
    registry = CollectorRegistry()
    RerankerMetrics(registry).observe(scores, 0.1)
    assert registry.get_sample_value("reranker_candidates_total") == len(scores)
    assert registry.get_sample_value("reranker_score_spread_count") == spreads
    assert registry.get_sample_value("reranker_latency_seconds_sum") == 0.1
