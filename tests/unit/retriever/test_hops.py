"""Hops over any passages: what was found loses nothing, and nothing passes what leads to it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.documents import Passage
from services.retriever.relations.hops import RULES, PathKind, Reached, follow
from services.retriever.relations.keys import keys_of, terms_of
from services.retriever.store import PointId

NAMES = ["Ada", "Bob", "Cid", "Dan", "Eve Hill", "Fay Hill"]
WORDS = {"who": 1, "wrote": 2, "it": 3}
passages = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from([*NAMES, *WORDS]), max_size=4)), min_size=1, max_size=12
)


def made(parts: Sequence[tuple[str, Sequence[str]]]) -> dict[PointId, Passage]:
    return {
        str(place): Passage(str(place), "of " + ", of ".join(words), title)
        for place, (title, words) in enumerate(parts)
    }


def reached(found: dict[PointId, Passage], candidates: Sequence[tuple[PointId, float]], hops: int) -> Reached:
    index: dict[int, list[PointId]] = defaultdict(list)
    for point, passage in found.items():
        for term in {*terms_of(passage, keys_of(passage)), *(WORDS[word] for word in WORDS if word in passage.text)}:
            index[term].append(point)

    async def holders(terms: Sequence[int], most: int, among: Sequence[PointId] = ()) -> list[list[PointId]]:
        return [[point for point in index[term] if not among or point in among][:most] for term in terms]

    async def read(points: Sequence[PointId]) -> dict[PointId, Passage]:
        return {point: found[point] for point in points}

    words = list(WORDS.values())
    return asyncio.run(follow("who wrote it, Ada", words, candidates, len(found), hops, holders, read))


@settings(max_examples=60, deadline=None)
@given(passages, st.integers(1, 2), st.data())
def test_candidates_lose_nothing_and_nothing_passes_what_leads_to_it(
    parts: list[tuple[str, list[str]]], hops: int, data: st.DataObject
) -> None:
    found = made(parts)
    points = data.draw(st.lists(st.sampled_from(sorted(found)), min_size=1, unique=True))
    scores = data.draw(st.lists(st.floats(0.01, 1), min_size=len(points), max_size=len(points)))
    candidates = sorted(zip(points, scores, strict=True), key=lambda one: -one[1])
    outcome = reached(found, candidates, hops)
    before = dict(candidates)
    assert set(before) <= set(outcome.scores)
    for point, score in outcome.scores.items():
        path = outcome.paths.get(point)
        assert score >= before.get(point, min(before.values())) - 1e-9
        if path is None:
            assert score == before[point]
            continue
        assert 0 <= path.weight <= 1
        if path.kind is not PathKind.NAMED:
            assert path.bridge in outcome.bridges
            assert path.bridge != point
    assert outcome.scores == reached(found, candidates, hops).scores


def test_without_candidates_or_hops_nothing_is_followed() -> None:
    found = made([("Ada", ["Bob"]), ("Bob", [])])
    assert not reached(found, [], 1).scores
    assert reached(found, [("0", 1.0)], 0).scores == {"0": 1.0}
    one = reached(found, [("0", 1.0)], 1)
    assert one.paths["1"].kind is PathKind.LINK
    assert one.scores["1"] <= RULES.ceiling * one.scores["0"]
