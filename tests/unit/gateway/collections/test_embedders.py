from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.chassis.errors import FailedPrecondition, NotFound, Unavailable
from services.gateway.collections.embedders import Embedders
from services.gateway.search.stages import Embedded, EmbeddedTokens, QueryTokens
from sluice.type.v1 import collection_pb2, model_pb2, tokens_pb2
from tests.unit.gateway.samples import embedded, model, tokens_of, version


class OneModel:
    """An embedder that serves one model, until it is told to serve another."""

    def __init__(self, model: str, tokens: str = "") -> None:
        self.serves = model
        self.serves_tokens = tokens
        self.down = False
        self.asked = 0

    async def embed_queries(self, texts: Sequence[str], *, deadline: float) -> Embedded:
        if self.down:
            raise Unavailable("down")
        return embedded([b""] * len(texts), model(self.serves))

    embed_documents = embed_queries

    async def embed_query_tokens(self, query: str, *, deadline: float) -> QueryTokens:
        if not self.serves_tokens:
            raise FailedPrecondition("none", reason="NO_TOKEN_MODEL")
        return QueryTokens(tokens_pb2.TokenVectors(values=query.encode(), row_count=1), model(self.serves_tokens))

    async def embed_document_tokens(self, texts: Sequence[str], *, deadline: float) -> EmbeddedTokens:
        if not self.serves_tokens:
            raise FailedPrecondition("none", reason="NO_TOKEN_MODEL")
        return tokens_of(texts, model(self.serves_tokens))

    async def token_model(self, *, deadline: float) -> model_pb2.ModelInfo:
        self.asked += 1
        return model(self.serves_tokens) if self.serves_tokens else model_pb2.ModelInfo()

    async def model(self, *, deadline: float) -> model_pb2.ModelInfo:
        self.asked += 1
        if self.down:
            raise Unavailable("down")
        return model(self.serves, f"org/{self.serves}")


class Collections:
    """Collections by the models that made them."""

    def __init__(self, tokens: str = "", **models: str) -> None:
        self.models = models
        self.tokens = tokens
        self.looked = 0

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        self.looked += 1
        if name not in self.models:
            raise NotFound("no such collection")
        found = version(f"{name}-v1", model(self.models[name]))
        if self.tokens:
            found.token_model.CopyFrom(model(self.tokens))
        return found


async def embedded_by(embedders: Embedders, collection: str) -> str:
    return (await embedders.embed_queries(["text"], collection=collection, deadline=0)).model.name


async def test_each_collection_gets_the_model_that_made_it_and_is_looked_at_once() -> None:
    collections = Collections(papers="large", notes="small")
    embedders = Embedders([OneModel("small"), OneModel("large")], collections)
    for _ in range(3):
        assert await embedded_by(embedders, "papers") == "large"
        assert await embedded_by(embedders, "notes") == "small"
    assert collections.looked == 2


async def test_what_has_no_collection_yet_gets_the_first_embedder() -> None:
    assert await embedded_by(Embedders([OneModel("small"), OneModel("large")], Collections()), "new") == "small"


async def test_a_collection_that_was_switched_is_looked_at_again_when_it_is_forgotten() -> None:
    collections = Collections(docs="small")
    embedders = Embedders([OneModel("small"), OneModel("large")], collections)
    assert await embedded_by(embedders, "docs") == "small"
    collections.models["docs"] = "large"
    embedders.forget("docs")
    assert await embedded_by(embedders, "docs") == "large"


async def test_a_look_that_began_before_a_collection_was_forgotten_is_not_kept() -> None:
    collections = Collections(docs="small")
    looking, switched = asyncio.Event(), asyncio.Event()

    class Slow(Collections):
        async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
            seen = await collections.collection(name, deadline=deadline)
            looking.set()
            await switched.wait()
            return seen

    embedders = Embedders([OneModel("small"), OneModel("large")], Slow())
    overtaken = asyncio.create_task(embedded_by(embedders, "docs"))
    await looking.wait()
    collections.models["docs"] = "large"
    embedders.forget("docs")
    switched.set()
    assert await overtaken == "small"
    assert await embedded_by(embedders, "docs") == "large"


async def test_an_embedder_that_serves_another_model_since_is_noticed() -> None:
    one, other = OneModel("small"), OneModel("large")
    embedders = Embedders([one, other], Collections(docs="small"))
    assert await embedded_by(embedders, "docs") == "small"
    one.serves, other.serves = "large", "small"
    assert await embedded_by(embedders, "docs") == "small"
    one.serves = other.serves = "tiny"
    with pytest.raises(FailedPrecondition) as nobody:
        await embedded_by(embedders, "docs")
    assert nobody.value.reason == "MODEL_MISMATCH"


async def test_embedders_are_not_asked_again_and_again_for_a_model_that_none_serves() -> None:
    one = OneModel("small")
    embedders = Embedders([one], Collections(docs="large"))
    for _ in range(5):
        with pytest.raises(FailedPrecondition, match=r"docs-v1.*large.*small"):
            await embedded_by(embedders, "docs")
    assert one.asked == 1


async def test_an_embedder_that_is_down_is_what_fails_not_the_model() -> None:
    one, other = OneModel("small"), OneModel("large")
    other.down = True
    with pytest.raises(Unavailable):
        await embedded_by(Embedders([one, other], Collections(docs="large")), "docs")


async def test_a_model_is_found_by_its_short_or_whole_name() -> None:
    embedders = Embedders([OneModel("small"), OneModel("large")], Collections())
    for name in ("large", "org/large"):
        assert (await embedders.model_named(name, deadline=0)).fingerprint == "large"
    with pytest.raises(FailedPrecondition, match="org/small, org/large"):
        await embedders.model_named("huge", deadline=0)


async def tokens_by(embedders: Embedders, collection: str) -> str:
    return (await embedders.embed_query_tokens("text", collection=collection, deadline=0)).model.name


async def test_the_tokens_of_a_query_are_made_by_the_embedder_that_serves_the_collections_token_model() -> None:
    one, other = OneModel("small", "tokens"), OneModel("large", "better")
    embedders = Embedders([one, other], Collections(docs="small", tokens="better"))
    assert await tokens_by(embedders, "docs") == "better"
    one.serves_tokens, other.serves_tokens = "better", ""
    assert await tokens_by(embedders, "docs") == "better"


async def test_without_token_vectors_or_a_served_model_of_them_the_reason_is_told() -> None:
    one = OneModel("small")
    for collections, reason in (
        (Collections(docs="small"), "NO_TOKEN_VECTORS"),
        (Collections(), "NO_TOKEN_VECTORS"),
        (Collections(docs="small", tokens="better"), "TOKEN_MODEL_NOT_SERVED"),
    ):
        embedders = Embedders([one], collections)
        for _ in range(3):
            with pytest.raises(FailedPrecondition) as refused:
                await tokens_by(embedders, "docs")
            assert refused.value.reason == reason
    assert one.asked == 1


async def document_tokens_by(embedders: Embedders, collection: str) -> str:
    made = await embedders.embed_document_tokens(["text"], collection=collection, deadline=0)
    return made.model.name if made else ""


async def test_documents_get_token_vectors_by_the_token_model_of_their_collection_if_it_has_one() -> None:
    one, other = OneModel("small", "tokens"), OneModel("large", "better")
    assert await document_tokens_by(Embedders([one, other], Collections(docs="small", tokens="better")), "docs") == (
        "better"
    )
    assert await document_tokens_by(Embedders([one, other], Collections(docs="small")), "docs") == ""


async def test_a_collection_to_come_gets_the_token_model_of_the_first_embedder_unless_the_setting_says_no() -> None:
    one, other = OneModel("small", "tokens"), OneModel("large", "better")
    assert await document_tokens_by(Embedders([one, other], Collections()), "new") == "tokens"
    assert await document_tokens_by(Embedders([one, other], Collections(), token_vectors=False), "new") == ""
    one.serves_tokens = ""
    assert await document_tokens_by(Embedders([one, other], Collections()), "new") == ""


async def test_an_embedder_that_has_lost_its_token_model_is_noticed_and_the_way_out_is_told() -> None:
    one, other = OneModel("small", "tokens"), OneModel("large")
    embedders = Embedders([one, other], Collections(docs="small", tokens="tokens"))
    assert await document_tokens_by(embedders, "docs") == await tokens_by(embedders, "docs") == "tokens"
    one.serves_tokens, other.serves_tokens = "", "tokens"
    assert await document_tokens_by(embedders, "docs") == await tokens_by(embedders, "docs") == "tokens"
    other.serves_tokens = ""
    with pytest.raises(FailedPrecondition, match=r"TOKEN_MODEL of one of them.*--no-late") as lost:
        await document_tokens_by(embedders, "docs")
    assert lost.value.reason == "TOKEN_MODEL_NOT_SERVED"


async def test_a_version_to_build_gets_the_token_model_that_there_was_or_else_the_first_that_is_served() -> None:
    embedders = Embedders([OneModel("small"), OneModel("large", "tokens"), OneModel("huge", "better")], Collections())
    for before, now in (("better", "better"), ("tokens", "tokens"), ("", "tokens"), ("older", "tokens")):
        assert (await embedders.token_model_like(before, deadline=0)).name == now
    with pytest.raises(FailedPrecondition, match="TOKEN_MODEL=") as refused:
        await Embedders([OneModel("small")], Collections()).token_model_like("", deadline=0)
    assert refused.value.reason == "TOKEN_MODEL_NOT_SERVED"
