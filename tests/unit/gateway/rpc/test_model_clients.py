from __future__ import annotations

from array import array
from typing import Any

import pytest
from google.protobuf.message import Message

from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, SluiceError
from services.gateway.collections.documents import Chunking
from services.gateway.rpc.model_clients import EMBED_SLICE, EmbedderClient, ExpanderClient, RerankerClient
from services.gateway.search.flags import Features
from sluice.embedder.v1 import embedder_pb2
from sluice.expander.v1 import expander_pb2
from sluice.reranker.v1 import reranker_pb2
from sluice.type.v1 import features_pb2, model_pb2, tokens_pb2
from tests.unit.gateway.rpc.canned_channel import CannedChannel
from tests.unit.gateway.samples import model, passage


def embedded(request: embedder_pb2.EmbedTextsRequest) -> embedder_pb2.EmbedTextsResponse:
    """One vector a text: its length, twice."""
    return embedder_pb2.EmbedTextsResponse(
        vectors=b"".join(array("f", [len(text)] * 2).tobytes() for text in request.texts),
        row_count=len(request.texts),
        dimension=2,
        texts=[embedder_pb2.EmbeddedText(truncated=len(text) > 3) for text in request.texts],
        model=model("f00d"),
    )


async def test_documents_are_embedded_in_slices_and_every_text_keeps_its_vector() -> None:
    channel = CannedChannel(embedded)
    texts = ["x" * (place % 7) for place in range(EMBED_SLICE + 5)]
    result = await EmbedderClient(channel.as_channel()).embed_documents(texts, deadline=0)
    assert [len(request.texts) for request in channel.requests] == [EMBED_SLICE, 5]
    assert {(request.kind, request.priority) for request in channel.requests} == {
        (embedder_pb2.TEXT_KIND_DOCUMENT, model_pb2.PRIORITY_BULK)
    }
    assert [array("f", vector)[0] for vector in result.vectors] == [len(text) for text in texts]
    assert result.truncated == [len(text) > 3 for text in texts]
    assert result.model.fingerprint == "f00d"


async def test_queries_are_embedded_with_the_priority_of_a_person() -> None:
    channel = CannedChannel(embedded)
    await EmbedderClient(channel.as_channel()).embed_queries(["a"], deadline=0)
    [request] = channel.requests
    assert (request.kind, request.priority) == (embedder_pb2.TEXT_KIND_QUERY, model_pb2.PRIORITY_INTERACTIVE)


async def test_the_tokens_of_a_query_are_embedded_with_the_priority_of_a_person() -> None:
    made = embedder_pb2.EmbedTokensResponse(
        vectors=[tokens_pb2.TokenVectors(values=b"1234", row_count=2)], model=model("tokens")
    )
    channel = CannedChannel(lambda _: made)
    tokens = await EmbedderClient(channel.as_channel()).embed_query_tokens("a query", deadline=0)
    [request] = channel.requests
    assert (list(request.texts), request.kind) == (["a query"], embedder_pb2.TEXT_KIND_QUERY)
    assert request.priority == model_pb2.PRIORITY_INTERACTIVE
    assert (tokens.vectors, tokens.model.fingerprint) == (made.vectors[0], "tokens")


async def test_the_tokens_of_documents_are_embedded_in_slices_and_every_text_keeps_its_own() -> None:
    def made(request: embedder_pb2.EmbedTokensRequest) -> embedder_pb2.EmbedTokensResponse:
        if "bad" in request.texts:
            raise InvalidArgument(f"texts[{list(request.texts).index('bad')}]", "cannot be read")
        return embedder_pb2.EmbedTokensResponse(
            vectors=[tokens_pb2.TokenVectors(values=text.encode(), row_count=1) for text in request.texts],
            model=model("tokens"),
        )

    channel = CannedChannel(made)
    texts = [str(place) for place in range(EMBED_SLICE + 5)]
    tokens = await EmbedderClient(channel.as_channel()).embed_document_tokens(texts, deadline=0)
    assert [len(request.texts) for request in channel.requests] == [EMBED_SLICE, 5]
    assert {(request.kind, request.priority) for request in channel.requests} == {
        (embedder_pb2.TEXT_KIND_DOCUMENT, model_pb2.PRIORITY_BULK)
    }
    assert ([one.values.decode() for one in tokens.vectors], tokens.model.fingerprint) == (texts, "tokens")
    with pytest.raises(InvalidArgument, match=rf"texts\[{EMBED_SLICE + 5}\]"):
        await EmbedderClient(channel.as_channel()).embed_document_tokens([*texts, "bad"], deadline=0)


async def test_an_embedder_without_a_token_model_says_so() -> None:
    channel = CannedChannel(lambda _: embedder_pb2.GetModelResponse(model=model("f00d")))
    assert not (await EmbedderClient(channel.as_channel()).token_model(deadline=0)).fingerprint


async def test_an_error_about_chunks_names_the_field_of_the_gateways_caller() -> None:
    def refused(_request: Any) -> embedder_pb2.SplitTextsResponse:
        raise InvalidArgument("chunk_tokens", "is 3; send 32 to 256")

    client = EmbedderClient(CannedChannel(refused).as_channel())
    with pytest.raises(InvalidArgument, match=r"^chunking\.chunk_tokens: is 3; send 32 to 256$"):
        await client.split_documents([passage("a")], Chunking(3, None), deadline=0)


async def test_an_overlap_that_is_not_given_is_left_to_the_embedder() -> None:
    channel = CannedChannel(lambda _: embedder_pb2.SplitTextsResponse())
    client = EmbedderClient(channel.as_channel())
    for overlap in (None, 0):
        await client.split_documents([passage("a")], Chunking(0, overlap), deadline=0)
    assert [request.HasField("overlap_tokens") for request in channel.requests] == [False, True]


async def test_the_expander_is_asked_as_the_features_say() -> None:
    channel = CannedChannel(
        lambda request: expander_pb2.ExpandQueryResponse(
            variants=[expander_pb2.Variant(text=request.query, weight=1)], degraded_reason="no WordNet"
        )
    )
    features = Features(expansion_strategy="multi_query", max_variant_count=3)
    expanded = await ExpanderClient(channel.as_channel()).expand("a query", features, deadline=0)
    [request] = channel.requests
    assert (request.strategy, request.max_variant_count) == (features_pb2.EXPANSION_STRATEGY_MULTI_QUERY, 3)
    assert ([variant.text for variant in expanded.variants], expanded.degraded_reason) == (["a query"], "no WordNet")


@pytest.mark.parametrize("priority", [model_pb2.PRIORITY_INTERACTIVE, model_pb2.PRIORITY_BULK])
async def test_a_reranker_is_asked_with_the_priority_of_its_client(priority: model_pb2.Priority.ValueType) -> None:
    channel = CannedChannel(lambda _: reranker_pb2.RerankPassagesResponse(scores=[1, 2], model=model("cross")))
    scored = await RerankerClient(channel.as_channel(), priority).rerank("a query", ["a", "b"], deadline=0)
    assert (channel.requests[0].priority, scored.scores, scored.model) == (priority, [1, 2], "cross")


class Windowed:
    """A model stage with a window, which truncates what does not fit: a token for each four characters."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.channel = CannedChannel(self.answer)

    def answer(self, request: Message) -> Message:
        described = model_pb2.ModelInfo(name="cross", fingerprint="f00d", max_token_count=self.window)
        if isinstance(request, embedder_pb2.GetModelRequest):
            return embedder_pb2.GetModelResponse(model=described, token_model=described)
        if isinstance(request, reranker_pb2.GetModelRequest):
            return reranker_pb2.GetModelResponse(model=described)
        if isinstance(request, reranker_pb2.RerankPassagesRequest):
            return reranker_pb2.RerankPassagesResponse(
                scores=[float(len(text)) for text in request.passages],
                truncated_count=sum(len(text) > 4 * self.window for text in request.passages),
                model=described,
            )
        if isinstance(request, embedder_pb2.EmbedTokensRequest):
            return embedder_pb2.EmbedTokensResponse(vectors=[{"row_count": 1} for _ in request.texts], model=described)
        assert isinstance(request, embedder_pb2.EmbedTextsRequest)
        return embedder_pb2.EmbedTextsResponse(
            vectors=b"".join(array("f", [len(text)]).tobytes() for text in request.texts),
            dimension=1,
            texts=[embedder_pb2.EmbeddedText(truncated=len(text) > 4 * self.window) for text in request.texts],
            model=described,
        )

    def sent(self) -> list[int]:
        """Lengths of all texts that were sent, in UTF-8."""
        texts = [
            getattr(request, "texts", None) or getattr(request, "passages", ()) for request in self.channel.requests
        ]
        return [len(text.encode()) for batch in texts for text in batch]


async def test_no_more_of_a_text_is_sent_than_the_token_model_may_read_even_after_it_has_changed() -> None:
    stage = Windowed(180)
    client = EmbedderClient(stage.channel.as_channel())
    await client.embed_document_tokens(["short", "x" * 30_000], deadline=0)
    assert stage.sent() == [5, 180 * 32]
    stage.window = 512
    await client.embed_document_tokens(["x" * 30_000], deadline=0)
    assert stage.sent()[2:] == [180 * 32, 512 * 32]


async def test_a_text_is_cut_by_the_window_of_the_model_and_the_cut_is_told() -> None:
    stage = Windowed(8192)
    client = EmbedderClient(stage.channel.as_channel())
    result = await client.embed_documents(["short", "x" * 30_000, "é" * 200_000], deadline=0)
    assert stage.sent() == [5, 30_000, 8192 * 32]
    assert result.truncated == [False, False, True]
    stage = Windowed(512)
    result = await EmbedderClient(stage.channel.as_channel()).embed_documents(["x" * 30_000, "x" * 1000], deadline=0)
    assert stage.sent() == [512 * 32, 1000]
    assert result.truncated == [True, False]


async def test_a_model_with_a_larger_window_gets_the_text_again() -> None:
    stage = Windowed(512)
    client = EmbedderClient(stage.channel.as_channel())
    await client.embed_documents(["x" * 30_000], deadline=0)
    stage.window = 8192
    result = await client.embed_documents(["x" * 30_000], deadline=0)
    assert stage.sent()[-1] == 30_000
    assert result.truncated == [False]


async def test_texts_that_begin_with_blanks_only_are_not_cut_to_nothing() -> None:
    stage = Windowed(512)
    await EmbedderClient(stage.channel.as_channel()).embed_documents([" " * 30_000 + "word"], deadline=0)
    assert stage.sent() == [4]


async def test_a_thousand_long_passages_are_reranked_in_slices_that_fit_a_message() -> None:
    stage = Windowed(8192)
    passages = ["x" * (20_000 + place) for place in range(1000)]
    scored = await RerankerClient(stage.channel.as_channel()).rerank("a query", passages, deadline=0)
    assert scored.scores == [float(len(text)) for text in passages]
    assert max(request.ByteSize() for request in stage.channel.requests) < 5 * 2**20
    assert scored.truncated_count == 0


async def test_a_partial_reranking_ends_with_the_slice_that_was_not_done_whole() -> None:
    asked: list[int] = []
    wide = model_pb2.ModelInfo(max_token_count=8192)

    def first_three_hundred(request: Any) -> Message:
        if isinstance(request, reranker_pb2.GetModelRequest):
            return reranker_pb2.GetModelResponse(model=wide)
        first = sum(asked)
        asked.append(len(request.passages))
        scores = [float(number) for number in range(first, min(300, first + len(request.passages)))]
        return reranker_pb2.RerankPassagesResponse(
            scores=scores,
            truncated_count=len(scores),
            token_count=70 * len(scores),
            max_passage_token_count=64,
            model=wide,
        )

    client = RerankerClient(CannedChannel(first_three_hundred).as_channel())
    scored = await client.rerank("a query", ["x" * 20_000] * 1000, partial=True, deadline=0)
    assert len(asked) == 2
    assert scored.scores == [float(number) for number in range(300)]
    assert (scored.truncated_count, scored.token_count, scored.passage_tokens) == (300, 21_000, 64)


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), ResourceExhausted("full", reason="QUEUE_FULL")])
async def test_a_partial_reranking_keeps_the_slices_before_one_that_fails(error: SluiceError) -> None:
    slices_left = [1]
    wide = model_pb2.ModelInfo(max_token_count=8192)

    def one_slice(request: Any) -> Message:
        if isinstance(request, reranker_pb2.GetModelRequest):
            return reranker_pb2.GetModelResponse(model=wide)
        if not slices_left:
            raise error
        slices_left.pop()
        return reranker_pb2.RerankPassagesResponse(scores=[1.0] * len(request.passages), model=wide)

    client = RerankerClient(CannedChannel(one_slice).as_channel())
    scored = await client.rerank("a query", ["x" * 20_000] * 1000, partial=True, deadline=0)
    assert 0 < len(scored.scores) < 1000
    with pytest.raises(type(error)):
        await client.rerank("a query", ["x" * 20_000], partial=True, deadline=0)


async def test_passages_that_do_not_fit_the_window_are_counted() -> None:
    stage = Windowed(512)
    passages = ["short", "x" * 3000, "x" * 30_000]
    scored = await RerankerClient(stage.channel.as_channel()).rerank("a query", passages, deadline=0)
    assert scored.truncated_count == 2


async def test_long_documents_are_split_in_slices_that_fit_a_message() -> None:
    channel = CannedChannel(
        lambda request: embedder_pb2.SplitTextsResponse(
            texts=[
                embedder_pb2.TextChunks(chunks=[embedder_pb2.TextChunk(start=0, end=len(text.text))])
                for text in request.texts
            ]
        )
    )
    documents = [passage(str(place), "", "x" * (1_000_000 + place)) for place in range(10)]
    ranges = await EmbedderClient(channel.as_channel()).split_documents(documents, Chunking(0, None), deadline=0)
    assert ranges == [[(0, 1_000_000 + place)] for place in range(10)]
    assert max(request.ByteSize() for request in channel.requests) < 5 * 2**20
