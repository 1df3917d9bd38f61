"""Token vectors over the retriever's RPCs: stored, compared, copied, and named where they are wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late import codes
from sluice.retriever.v1 import retriever_pb2 as pb
from sluice.retriever.v1.retriever_pb2_grpc import RetrieverServiceStub
from sluice.type.v1.model_pb2 import ModelInfo
from sluice.type.v1.passage_pb2 import Passage
from sluice.type.v1.tokens_pb2 import TokenVectors
from tests.contract.conftest import start

MODEL = ModelInfo(name="dense", fingerprint="dense@1", dimension=2)
TOKEN_MODEL = ModelInfo(name="late", fingerprint="late@1", dimension=65, precision="fp32")
DIRECTIONS = np.linalg.qr(np.random.default_rng(7).normal(size=(64, 4)))[0].T.astype(np.float32)
EAST = np.array([1, 0], "<f4").tobytes()


def tokens(*directions: int) -> TokenVectors:
    made = codes.encode(DIRECTIONS[list(directions)])
    return TokenVectors(values=made.tobytes(), row_count=len(made))


PASSAGES = [
    pb.PassageVector(passage=Passage(id="far", text="sea"), vector=EAST, tokens=tokens(2, 3)),
    pb.PassageVector(passage=Passage(id="near", text="sea and ship"), vector=EAST, tokens=tokens(0, 1, 3)),
]


class Retriever:
    """The retriever, with one collection."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self._stub = RetrieverServiceStub(stage.channel)

    async def __call__(self, method: str, request: Any) -> Any:
        return await self._stage.call(getattr(self._stub, method), request, deadline=time.monotonic() + 20)

    async def upsert(self, *passages: pb.PassageVector, fingerprint: str = TOKEN_MODEL.fingerprint) -> None:
        request = pb.UpsertPassagesRequest(
            collection="docs",
            passages=passages,
            model_fingerprint=MODEL.fingerprint,
            token_model_fingerprint=fingerprint,
        )
        await self("UpsertPassages", request)

    async def search(self, **late: Any) -> dict[str, float | None]:
        """Search by words; the late scores."""
        variants = [pb.QueryVariant(text="sea", weight=1)]
        request = pb.SearchPassagesRequest(collection="docs", variants=variants, limit=5, **late)
        found = await self("SearchPassages", request)
        return {one.passage.id: one.late_score if one.HasField("late_score") else None for one in found.candidates}


@pytest.fixture
async def retriever(tmp_path: Path) -> AsyncIterator[Retriever]:
    async with AsyncExitStack() as stack:
        platform = await start(stack, {"retriever"}, retriever={"qdrant_path": tmp_path / "qdrant"})
        one = Retriever(platform["retriever"])
        created = await one(
            "CreateCollection", pb.CreateCollectionRequest(collection="docs", model=MODEL, token_model=TOKEN_MODEL)
        )
        assert created.collection.token_model == TOKEN_MODEL
        await one.upsert(*PASSAGES)
        yield one


async def test_a_search_says_how_near_the_best_candidates_are_by_their_tokens(retriever: Retriever) -> None:
    late = {"tokens": tokens(0, 1), "token_model_fingerprint": "late@1"}
    assert await retriever.search(**late, late_count=5) == {
        "far": pytest.approx(0, abs=0.02),
        "near": pytest.approx(1, abs=0.02),
    }
    assert await retriever.search(**late, late_count=1) == {"far": pytest.approx(0, abs=0.02), "near": None}
    assert await retriever.search() == {"far": None, "near": None}


@pytest.mark.parametrize(
    ("late", "field"),
    [
        ({"late_count": 3}, "tokens"),
        ({"tokens": TokenVectors(values=b"abc")}, "tokens.row_count"),
        ({"tokens": TokenVectors(values=b"abc", row_count=1025)}, "tokens.row_count"),
        ({"tokens": TokenVectors(values=b"abc", row_count=2)}, "tokens.values"),
        ({"tokens": TokenVectors(row_count=2)}, "tokens.values"),
        ({"tokens": tokens(0)}, "token_model_fingerprint"),
        ({"tokens": TokenVectors(values=b"abcd", row_count=2), "token_model_fingerprint": "late@1"}, "tokens"),
    ],
)
async def test_a_comparison_that_is_refused_names_the_field(
    retriever: Retriever, late: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await retriever.search(**late)
    assert caught.value.field == field


async def test_passages_that_are_refused_name_the_field_or_the_models(retriever: Retriever) -> None:
    bare = pb.PassageVector(passage=Passage(id="bare", text="sea"), vector=EAST)
    with pytest.raises(InvalidArgument) as missing:
        await retriever.upsert(PASSAGES[0], bare)
    assert missing.value.field == "passages[1].tokens"
    # One reason for all that another version would have taken: whoever sees it looks at the collection again.
    for fingerprint, passage in (("late@2", PASSAGES[0]), ("", bare)):
        with pytest.raises(FailedPrecondition) as other:
            await retriever.upsert(passage, fingerprint=fingerprint)
        assert other.value.reason == "TOKEN_MODEL_MISMATCH"


async def test_records_are_copied_with_their_token_vectors(retriever: Retriever) -> None:
    described = await retriever("DescribeVersion", pb.DescribeVersionRequest(collection="docs"))
    begun = await retriever(
        "BeginTransfer",
        pb.BeginTransferRequest(collection="copy", source_version="docs-v1", notes=described.notes),
    )
    assert begun.version.token_model == TOKEN_MODEL
    read = await retriever("ReadRecords", pb.ReadRecordsRequest(version="docs-v1", ids=["far", "near"]))
    kept = {record.passage.id: record.tokens for record in read.records}
    assert kept == {entry.passage.id: entry.tokens for entry in PASSAGES}
    copies = [
        pb.PassageCopy(
            passage=pb.PassageVector(passage=record.passage, vector=record.vector, tokens=record.tokens),
            revision=record.revision,
        )
        for record in read.records
    ]
    copied = pb.CopyPassagesRequest(
        version=begun.version.version,
        passages=copies,
        model_fingerprint=MODEL.fingerprint,
        token_model_fingerprint=TOKEN_MODEL.fingerprint,
    )
    await retriever("CopyPassages", copied)
    sample = await retriever("SamplePassages", pb.SamplePassagesRequest(collection=begun.version.version, limit=5))
    assert {entry.passage.id: entry.tokens for entry in sample.passages} == kept


async def test_the_next_version_may_be_without_token_vectors(retriever: Retriever) -> None:
    made = await retriever("CreateVersion", pb.CreateVersionRequest(collection="docs", model=MODEL))
    assert (made.version.HasField("token_model"), made.live.token_model) == (False, TOKEN_MODEL)
