"""Token vectors over a real socket."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.late.codes import Codes, similarity
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice.type.v1 import tokens_pb2
from tests.contract.conftest import Platform, start
from tests.maxsim import maxsim

QUERY, PASSAGE = embedder_pb2.TEXT_KIND_QUERY, embedder_pb2.TEXT_KIND_DOCUMENT


@pytest.fixture
async def embedder() -> AsyncIterator[Platform]:
    async with AsyncExitStack() as stack:
        yield await start(stack, {"embedder"})


async def tokens(embedder: Platform, *texts: str, **fields: Any) -> embedder_pb2.EmbedTokensResponse:
    stub = embedder_pb2_grpc.EmbedderServiceStub(embedder["embedder"].channel)
    request = embedder_pb2.EmbedTokensRequest(texts=texts, **({"kind": PASSAGE} | fields))
    return await embedder["embedder"].call(stub.EmbedTokens, request, deadline=time.monotonic() + 20)


async def models(embedder: Platform) -> embedder_pb2.GetModelResponse:
    stub = embedder_pb2_grpc.EmbedderServiceStub(embedder["embedder"].channel)
    return await embedder["embedder"].call(
        stub.GetModel, embedder_pb2.GetModelRequest(), deadline=time.monotonic() + 20
    )


def codes(vectors: tokens_pb2.TokenVectors) -> Codes:
    return np.frombuffer(vectors.values, dtype=np.uint8).reshape(vectors.row_count, -1)


async def test_passages_with_the_words_of_a_query_are_nearest_to_it(embedder: Platform) -> None:
    (asked,) = (await tokens(embedder, "old ship", kind=QUERY)).vectors
    passages = await tokens(embedder, "An old lamp", "The ship was old", "A storm")
    query, dimension = codes(asked), passages.model.dimension
    found = [similarity(maxsim(query, codes(one)), len(query), dimension) for one in passages.vectors]
    assert found[1] == pytest.approx(1, abs=0.01)
    assert found[1] > found[0] > found[2]
    assert [text.token_count for text in passages.texts] == [3, 4, 2]
    assert passages.model == (await models(embedder)).token_model
    assert passages.model.pseudo


async def test_a_request_is_checked_like_that_for_vectors_of_texts(embedder: Platform) -> None:
    for field, texts, fields in (
        ("texts", [], {}),
        ("texts[1]", ["a", ""], {}),
        ("kind", ["a"], {"kind": 0}),
        ("priority", ["a"], {"priority": 9}),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await tokens(embedder, *texts, **fields)
        assert refused.value.field == field


async def test_without_a_token_model_calls_are_refused_and_no_model_is_described() -> None:
    async with AsyncExitStack() as stack:
        embedder = await start(stack, {"embedder"}, embedder={"token_model": ""})
        assert not (await models(embedder)).HasField("token_model")
        with pytest.raises(FailedPrecondition, match="set its TOKEN_MODEL") as refused:
            await tokens(embedder, "a text")
        assert refused.value.reason == "NO_TOKEN_MODEL"
