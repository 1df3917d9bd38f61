from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pytest

from services.chassis.errors import DeadlineExceeded, Internal, ResourceExhausted, SluiceError, Unavailable
from services.late.codes import Codes, encode
from services.retriever.search.searches import LateQuery, compare
from services.retriever.store import Deadline, PassageStore
from tests.maxsim import maxsim

TOKENS = encode(np.eye(3, 24, dtype=np.float32))
QUERY = LateQuery(TOKENS, "late@1", 2)


class Comparing:
    """A store that compares, or fails."""

    def __init__(self, failure: SluiceError | None = None) -> None:
        self.failure = failure
        self.points: Sequence[str] = ()
        self.deadline: Deadline = None

    async def compare(
        self, version: str, tokens: Codes, points: Sequence[str], deadline: Deadline
    ) -> Mapping[str, float]:
        self.points, self.deadline = points, deadline
        if self.failure:
            raise self.failure
        return dict.fromkeys(points, maxsim(tokens, TOKENS))

    def as_store(self) -> PassageStore:
        return cast(PassageStore, self)


async def test_the_best_are_compared_in_less_time_than_the_answer_has() -> None:
    store = Comparing()
    found = await compare(store.as_store(), "docs-v1", QUERY, ["a", "b", "c"], math.inf)
    assert found == {"a": pytest.approx(1, abs=0.03), "b": pytest.approx(1, abs=0.03)}
    await compare(store.as_store(), "docs-v1", QUERY, ["a"], 100.0)
    assert store.deadline is not None
    assert store.deadline < 100.0


@pytest.mark.parametrize("failure", [DeadlineExceeded("late"), Unavailable("down"), ResourceExhausted("full")])
async def test_what_was_found_is_an_answer_without_a_comparison_too(failure: SluiceError) -> None:
    assert await compare(Comparing(failure).as_store(), "docs-v1", QUERY, ["a"], None) == {}


async def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(Internal):
        await compare(Comparing(Internal("broken")).as_store(), "docs-v1", QUERY, ["a"], None)
