"""A batch is stored whole or not at all: the gateway's indexing over the retriever, against a model of both.

Documents are cut into chunks of one word. A call holds three passages, so that most batches take several.
Some hundreds of operations run with the others; SLUICE_OPERATIONS=10000 runs so many, in about ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.gateway.collections import indexing as gateway
from services.gateway.collections.documents import Chunking
from services.gateway.collections.store import Vectors, Written
from services.gateway.search.stages import Embedded, EmbeddedTokens
from services.retriever.documents import Passage
from services.retriever.fields import ALL
from services.retriever.store import Parts
from sluice.type.v1 import filter_pb2, model_pb2, passage_pb2
from tests.integration.shelf import MODEL, Shelf

VECTOR = np.ones(3, "<f4").tobytes()
IDS = ["a", "a#2", "a#3", "a##", "b", "b#2", "a #2", "##2", "b##2x"]
OPERATIONS = int(os.environ.get("SLUICE_OPERATIONS", "300"))


class Stages:
    """Embedder and store of the gateway, over the retriever's domain in this process."""

    def __init__(self, shelf: Shelf, chance: random.Random) -> None:
        self.shelf = shelf
        self.chance = chance

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        await self.pause()
        info = model_pb2.ModelInfo(fingerprint=MODEL.fingerprint)
        return Embedded([VECTOR] * len(texts), info, [False] * len(texts))

    async def embed_document_tokens(
        self, texts: Sequence[str], *, collection: str, deadline: float
    ) -> EmbeddedTokens | None:
        return None

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, collection: str, deadline: float
    ) -> list[list[tuple[int, int]]]:
        return [[(start, start + 1) for start in range(len(one.text))] for one in documents]

    def forget(self, collection: str) -> None:
        raise AssertionError("no switch here")

    async def check(
        self, collection: str, passages: Sequence[passage_pb2.Passage], *, model_fingerprint: str, deadline: float
    ) -> None:
        read = [Passage.from_proto(one, f"passages[{place}]") for place, one in enumerate(passages)]
        await self.shelf.passages.check(collection, read, model_fingerprint=model_fingerprint)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str,
        deadline: float,
    ) -> Written:
        await self.pause()
        read = [
            Passage.from_proto(one, f"passages[{place}]", vector)
            for place, (one, vector) in enumerate(zip(passages, vectors.dense, strict=True))
        ]
        stored = await self.shelf.passages.upsert(
            collection, read, model_fingerprint=vectors.model_fingerprint, batch=batch
        )
        return Written(stored.count, stored.version)

    async def pause(self) -> None:
        """Let others go first, by chance."""
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Index:
    """A batch of documents: id to text, whose length is the number of chunks."""

    documents: tuple[tuple[str, str], ...]
    refused: bool
    """True if the last document has a value of another type than the field."""


@dataclass(frozen=True)
class Delete:
    """Documents to delete."""

    ids: tuple[str, ...]


@dataclass
class Model:
    """The model: for each document the texts that it may have; None where it may be absent."""

    texts: dict[str, set[str | None]] = field(default_factory=dict)

    def done(self, operations: Sequence[Index | Delete]) -> None:
        """Note operations that ran at once: the last to touch a document may be any of them."""
        touched: dict[str, set[str | None]] = {}
        for operation in operations:
            if isinstance(operation, Delete):
                for one in operation.ids:
                    touched.setdefault(one, set()).add(None)
            elif not operation.refused:
                for one, text in operation.documents:
                    touched.setdefault(one, set()).add(text)
        self.texts |= touched


texts = st.text("xyz", min_size=1, max_size=9)
batches = st.builds(
    Index,
    st.dictionaries(st.sampled_from(IDS), texts, min_size=1, max_size=4).map(lambda found: tuple(found.items())),
    st.booleans(),
)
deletions = st.builds(Delete, st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True).map(tuple))
rounds = st.lists(st.lists(batches | deletions, min_size=1, max_size=3), min_size=1, max_size=8)


async def run(shelf: Shelf, indexing: gateway.Indexing, collection: str, operation: Index | Delete) -> None:
    if isinstance(operation, Delete):
        await shelf.passages.delete(collection, operation.ids)
        return
    documents = []
    for place, (identity, text) in enumerate(operation.documents):
        bad = operation.refused and place == len(operation.documents) - 1
        value = filter_pb2.Value(string_value="no year") if bad else filter_pb2.Value(integer_value=1999)
        documents.append(passage_pb2.Passage(id=identity, document_id=identity, text=text, metadata={"year": value}))
    if operation.refused:
        with pytest.raises(InvalidArgument, match=rf"documents\[{len(documents) - 1}\]\.metadata\.year"):
            await indexing.index(collection, documents, chunking=Chunking(1, None), deadline=0)
    else:
        await indexing.index(collection, documents, chunking=Chunking(1, None), deadline=0)


async def look(shelf: Shelf, collection: str, model: Model) -> None:
    """Compare everything that is stored with the model, and hold the model to what was found."""
    rows, _ = await shelf.store.scroll(
        (await shelf.collections.get(collection)).version, None, 1000, Parts.PASSAGE, None, ALL
    )
    passages = {row.passage.id: row.passage for row in rows if row.passage.document_id != "anchor"}
    found = {}
    for identity in IDS:
        document = await shelf.document(collection, identity)
        text = "".join(passage.text for passage in document) if document else None
        assert text in model.texts.get(identity, {None})
        model.texts[identity] = {text}
        found |= {passage.id: passage for passage in document}
    # Nothing is stored that belongs to no document.
    assert passages.keys() == found.keys()


@pytest.mark.timeout(180 + OPERATIONS // 5)
@pytest.mark.parametrize("store", ["embedded"], indirect=True)
@settings(
    max_examples=max(1, OPERATIONS // 12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rounds=rounds, seed=st.integers(0, 2**32))
async def test_every_batch_is_stored_whole_or_not_at_all_whatever_runs_at_once(
    shelf: Shelf, new_name, monkeypatch: pytest.MonkeyPatch, rounds: list[list[Index | Delete]], seed: int
) -> None:
    monkeypatch.setattr(gateway, "UPSERT_SLICE", 3)
    collection = new_name()
    await shelf.collections.create(collection, MODEL)
    await shelf.put(collection, [Passage("anchor", "keeps the type", metadata={"year": 1}, vector=np.ones(3, "f4"))])
    stages = Stages(shelf, random.Random(seed))
    indexing = gateway.Indexing(stages, stages, stages)  # type: ignore[arg-type]
    model = Model()
    for operations in rounds:
        await asyncio.gather(*(run(shelf, indexing, collection, one) for one in operations))
        model.done(operations)
        await look(shelf, collection, model)
