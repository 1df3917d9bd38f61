"""All pages of one question, over a thousand passages in Qdrant's engine, through the gateway's pipeline."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.chassis.validation import chunk_id
from services.gateway.search.budgets import Budgets
from services.gateway.search.flags import Features
from services.gateway.search.order.ranking import Weights
from services.gateway.search.pipeline import Pipeline, Stages
from services.gateway.search.question import Question
from services.gateway.search.stages import (
    Answer,
    Candidate,
    Embedded,
    Expanded,
    Reranked,
    Retrieved,
    SearchVariant,
    Variant,
)
from services.retriever.documents import Chunk, Passage
from services.retriever.search.searches import QueryVariant
from sluice.type.v1 import model_pb2, passage_pb2
from tests.integration.shelf import MODEL, Shelf

TOPICS = ["crane", "train", "garden", "bread", "chain", "clock", "lock", "mill", "hive", "tile", "string", "mine"]
VERBS = ["repair", "buy", "paint", "measure", "move", "clean", "count", "draw", "sell", "store"]
QUERY = "repair the old crane and store bread"


def vector_of(text: str) -> np.ndarray:
    """A vector that only the text decides."""
    return np.random.default_rng(list(text.encode())).normal(size=3).astype(np.float32)


def notes() -> list[Passage]:
    """A thousand chunks of 500 documents that share many words; a third of the documents say the same."""
    pick = random.Random(7).choice
    found = []
    for number in range(500):
        say = f"note of kind {number % 40}" if number % 3 == 0 else f"note {number}"
        for part in (1, 2):
            text = f"{say} part {part}: {pick(VERBS)} {pick(TOPICS)} and {pick(VERBS)} {pick(TOPICS)}"
            if number % 3 == 0:
                text = f"{say} part {part}: repair the crane"
            found.append(
                Passage(chunk_id(f"d{number}", part), text, vector=vector_of(text), chunk=Chunk(part, 2, 0, 9))
            )
    return found


class World:
    """Stages that answer from memory, but for the retriever."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def expand(self, query: str, features: Features, *, deadline: float) -> Expanded:
        return Expanded([Variant(query, 1.0), Variant("paint a garden clock", 0.5), Variant("crane", 0.2)])

    async def embed_queries(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        info = model_pb2.ModelInfo(fingerprint=MODEL.fingerprint)
        return Embedded([vector_of(text).tobytes() for text in texts], info, [False] * len(texts))

    def forget(self, collection: str) -> None:
        raise AssertionError("no switch here")

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        return Reranked([random.Random(text).random() for text in passages], "cross")

    async def search(self, collection: str, variants: Sequence[SearchVariant], **options: Any) -> Retrieved:
        asked = [
            QueryVariant(one.text, np.frombuffer(one.vector, "<f4") if one.vector else None, one.weight)
            for one in variants
        ]
        for one in ("filter", "tokens", "late_count"):
            del options[one]
        found = await self.shelf.passages.search(collection, asked, **options)
        return Retrieved(
            [Candidate(one.passage.to_proto(), one.score, one.whole) for one in found.candidates], found.version
        )

    async def passages(
        self, collection: str, ids: Sequence[str], *, deadline: float
    ) -> AsyncIterator[passage_pb2.Passage]:
        while ids:
            found, count = await self.shelf.passages.read(collection, ids)
            for one in found:
                yield one.to_proto()
            ids = ids[count:]


async def pages(world: World, question: Question, sizes: Sequence[int]) -> list[Answer]:
    pipeline = Pipeline(Stages(world, world, world, world), Weights(1.0, 0.67, 0.5, 0.8), Budgets())
    answers: list[Answer] = []
    offset: int | None = 0
    while offset is not None:
        asked = replace(
            question,
            offset=offset,
            limit=sizes[len(answers) % len(sizes)],
            course=answers[0].course if answers else None,
        )
        answers.append(await pipeline.search(asked, deadline=time.monotonic() + 120))
        offset = answers[-1].following
    return answers


SEARCHES = {
    "as a caller gets it": Features(),
    "expanded and reranked": Features(
        expansion=True, rerank=True, rerank_method="cross_encoder", rerank_candidate_count=50
    ),
    "vectors alone": Features(lexical=False, rerank=True, rerank_method="cross_encoder", rerank_candidate_count=20),
    "words alone": Features(dense=False, expansion=True),
}
REDUCTIONS: dict[str, dict[str, bool]] = {
    "whole": {},
    "grouped": {"group_by_document": True},
    "collapsed": {"collapse_duplicates": True},
}


@pytest.mark.parametrize("store", ["embedded"], indirect=True)
@pytest.mark.parametrize("reduction", REDUCTIONS.values(), ids=REDUCTIONS)
@pytest.mark.parametrize("features", SEARCHES.values(), ids=SEARCHES)
async def test_no_result_is_repeated_and_none_is_missing_on_the_pages_of_a_query(
    shelf: Shelf, new_collection: Any, features: Features, reduction: dict[str, bool]
) -> None:
    stored = notes()
    collection = await new_collection(passages=stored)
    question = Question(QUERY, collection, features, **reduction)
    world = World(shelf)
    orders = []
    for sizes in ([100], [20, 7, 100, 33]):
        answers = await pages(world, question, sizes)
        shown = [result for answer in answers for result in answer.results]
        ids = [result.passage.id for result in shown]
        assert len(ids) == len(set(ids))
        assert [result.rank for result in shown] == list(range(1, len(ids) + 1))
        assert all(result.passage.text for result in shown)
        if features.dense and "collapse_duplicates" not in reduction:
            wanted = {one.document_id if reduction else one.id for one in stored}
            found = {result.passage.document_id if reduction else result.passage.id for result in shown}
            assert found == wanted
        orders.append(ids)
    # Every page size cuts the same order; where few are asked for at once, no fewer are reached.
    assert orders[0] == orders[1]


async def test_the_first_hundred_are_those_of_a_fusion_of_a_hundred(shelf: Shelf, new_collection: Any) -> None:
    collection = await new_collection(passages=notes())
    variant = QueryVariant(QUERY, vector_of(QUERY))
    deep = await shelf.search(collection, variant, limit=1000)
    for limit in (1, 10, 100, 101, 250, 999):
        found = await shelf.search(collection, variant, limit=limit)
        assert [one.passage.id for one in found.candidates] == [one.passage.id for one in deep.candidates[:limit]]
        assert [one.score for one in found.candidates] == [one.score for one in deep.candidates[:limit]]
    scores = [one.score for one in deep.candidates]
    assert scores == sorted(scores, reverse=True)


async def test_only_the_first_candidates_come_with_their_texts_where_few_are_wanted(
    shelf: Shelf, new_collection: Any
) -> None:
    collection = await new_collection(passages=notes())
    found = await shelf.search(collection, QueryVariant(QUERY, vector_of(QUERY)), limit=50, whole=3)
    assert [bool(one.passage.text) for one in found.candidates] == [one.whole for one in found.candidates]
    assert [one.whole for one in found.candidates] == [True] * 3 + [False] * 47
    assert {one.passage.document_id for one in found.candidates} <= {f"d{number}" for number in range(500)}


async def test_an_answer_holds_as_many_texts_as_a_message_has_room_for(shelf: Shelf, new_collection: Any) -> None:
    long = [
        Passage(f"long{place}", f"word {place} " + "x" * 600_000, vector=vector_of(str(place))) for place in range(9)
    ]
    collection = await new_collection(passages=long)
    found = await shelf.search(collection, QueryVariant("word", vector_of("0")), limit=9)
    assert [one.whole for one in found.candidates] == [True] * 6 + [False] * 3
