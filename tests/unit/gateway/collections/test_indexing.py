from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from services.gateway.collections.documents import Chunking
from services.gateway.collections.indexing import Indexing
from services.gateway.collections.store import Vectors, Written
from services.gateway.search.stages import Embedded, EmbeddedTokens
from sluice.type.v1 import collection_pb2, filter_pb2, model_pb2, passage_pb2
from tests.unit.gateway.samples import embedded, model, passage, tokens_of, version


class Shelf:
    """Embedder and store in one, in memory."""

    def __init__(
        self, *, exists: bool = True, taken_meanwhile: bool = False, moves: int = 0, token_model: str = ""
    ) -> None:
        self.exists = exists
        self.token_model = token_model
        self.tokens: dict[str, bytes] = {}
        self.unstored_tokens = self.most_unstored = 0
        self.created_for: tuple[str, str] = ("", "")
        self.moved = "MODEL_MISMATCH"
        self.taken_meanwhile = taken_meanwhile
        self.stored: dict[str, bytes] = {}
        self.embedded = 0
        self.calls: list[list[str]] = []
        self.batches: list[str] = []
        self.refused: set[str] = set()
        self.forgotten: list[str] = []
        self.moves = moves
        self.poison = ""

    async def split_documents(
        self, documents: Sequence[passage_pb2.Passage], chunking: Chunking, *, collection: str, deadline: float
    ) -> list[list[tuple[int, int]]]:
        def ranges(text: str) -> list[tuple[int, int]]:
            step = chunking.chunk_tokens
            return [(start, min(start + step, len(text))) for start in range(0, len(text), step)]

        return [ranges(document.text) for document in documents]

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        self.embedded += len(texts)
        for place, text in enumerate(texts):
            if self.poison and self.poison in text:
                raise InvalidArgument(f"texts[{place}]", "the model cannot compute it", reason="ROW_FAILED")
        vectors = [text.encode() for text in texts]
        return embedded(vectors, model("f00d"), [len(text) > 20 for text in texts])

    async def embed_document_tokens(
        self, texts: Sequence[str], *, collection: str, deadline: float
    ) -> EmbeddedTokens | None:
        self.unstored_tokens += len(texts)
        self.most_unstored = max(self.most_unstored, self.unstored_tokens)
        return tokens_of(texts, model(self.token_model)) if self.token_model else None

    def forget(self, collection: str) -> None:
        self.forgotten = [*self.forgotten, collection]

    async def check(
        self, collection: str, passages: Sequence[passage_pb2.Passage], *, model_fingerprint: str, deadline: float
    ) -> None:
        if not self.exists:
            raise NotFound("no such collection")
        for place, stored in enumerate(passages):
            if stored.document_id in self.refused:
                raise InvalidArgument(f"passages[{place}].metadata.year", "is of another type")

    async def create_collection(
        self,
        collection: str,
        model: model_pb2.ModelInfo,
        *,
        token_model: model_pb2.ModelInfo | None = None,
        deadline: float,
    ) -> collection_pb2.CollectionVersion:
        self.exists = True
        self.created_for = (model.fingerprint, token_model.fingerprint if token_model else "")
        if self.taken_meanwhile:
            raise AlreadyExists("taken")
        return version("docs-v1", model)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str = "",
        deadline: float,
    ) -> Written:
        if self.moves:
            self.moves -= 1
            raise FailedPrecondition("switched", reason=self.moved)
        if not self.exists:
            raise NotFound("no such collection")
        self.calls.append([passage.id for passage in passages])
        self.batches.append(batch)
        for place, stored in enumerate(passages):
            if stored.document_id in self.refused:
                raise InvalidArgument(f"passages[{place}].metadata.year", "is of another type")
        self.stored |= {passage.id: vector for passage, vector in zip(passages, vectors.dense, strict=True)}
        assert vectors.token_model_fingerprint == self.token_model
        self.unstored_tokens -= len(passages)
        if vectors.tokens:
            self.tokens |= {one.id: tokens.values for one, tokens in zip(passages, vectors.tokens, strict=True)}
        return Written(len(passages), "docs-v1")


def indexing(shelf: Shelf) -> Indexing:
    return Indexing(shelf, shelf, shelf)  # type: ignore[arg-type]


def documents(*ids: str) -> list[passage_pb2.Passage]:
    return [passage(identity, "", f"text of {identity}") for identity in ids]


def heavy(size: int, identity: str = "heavy") -> passage_pb2.Passage:
    """A document with this much metadata."""
    return passage_pb2.Passage(
        id=identity, document_id=identity, text="text", metadata={"blob": filter_pb2.Value(string_value="x" * size)}
    )


@pytest.mark.parametrize("taken_meanwhile", [False, True])
async def test_the_first_documents_create_the_collection(taken_meanwhile: bool) -> None:
    shelf = Shelf(exists=False, taken_meanwhile=taken_meanwhile)
    indexed = await indexing(shelf).index("docs", documents("a", "b"), deadline=0)
    assert (indexed.count, set(shelf.stored)) == (2, {"a", "b"})


@pytest.mark.parametrize("token_model", ["", "c01b"])
async def test_the_first_documents_create_a_collection_for_the_models_that_made_their_vectors(token_model: str) -> None:
    shelf = Shelf(exists=False, token_model=token_model)
    await indexing(shelf).index("docs", documents("a"), deadline=0)
    assert shelf.created_for == ("f00d", token_model)


async def test_every_passage_is_stored_with_its_own_token_vectors_however_many_calls_it_takes() -> None:
    shelf = Shelf(token_model="c01b")
    await indexing(shelf).index("docs", [passage("a", "", "x" * 5000)], chunking=CHUNKING, deadline=0)
    assert len(shelf.calls) > 1
    assert shelf.tokens == shelf.stored
    assert shelf.most_unstored == max(map(len, shelf.calls)), "they are large: no more are held than a call takes"


@pytest.mark.parametrize("reason", ["MODEL_MISMATCH", "TOKEN_MODEL_MISMATCH"])
async def test_a_switch_to_another_model_between_embedding_and_storing_is_followed_once(reason: str) -> None:
    shelf = Shelf(moves=1)
    shelf.moved = reason
    indexed = await indexing(shelf).index("docs", documents("a"), deadline=0)
    assert (indexed.count, shelf.embedded, shelf.forgotten) == (1, 2, ["docs"])
    with pytest.raises(FailedPrecondition):
        await indexing(Shelf(moves=2)).index("docs", documents("a"), deadline=0)


async def test_documents_that_did_not_fit_the_model_are_named() -> None:
    shelf = Shelf()
    indexed = await indexing(shelf).index("docs", documents("a", "a-rather-long-id"), deadline=0)
    assert indexed.truncated_ids == ["a-rather-long-id"]


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        (documents("a", ""), r"documents\[1\]\.id"),
        (documents("a", "b", "a"), r"documents\[2\]\.id.*documents\[0\]"),
        ([passage("a", " ", "\n")], r"documents\[0\]\.text"),
        ([passage("a", "", "x"), passage("b" * 513, "", "x")], r"documents\[1\]\.id"),
        ([passage("a", "", "x"), passage("a##2", "", "x")], r"documents\[1\]\.id: is that of a chunk of document 'a'"),
        ([passage("a", "", "x" * 13_000_000)], r"documents\[0\]\.text.* 13000000 bytes long; at most 12582912"),
        ([heavy(65_537)], r"documents\[0\]\.metadata: is .* bytes long; at most 65536 are taken"),
    ],
    ids=["no id", "the same id twice", "nothing to search for", "long id", "id of a chunk", "long text", "metadata"],
)
async def test_a_bad_document_is_named_and_nothing_is_computed_or_stored(
    batch: list[passage_pb2.Passage], field: str
) -> None:
    shelf = Shelf()
    with pytest.raises(InvalidArgument, match=field):
        await indexing(shelf).index("docs", batch, deadline=0)
    assert (shelf.embedded, shelf.stored) == (0, {})


CHUNKING = Chunking(chunk_tokens=5, overlap_tokens=None)


async def test_whole_documents_and_first_chunks_are_stored_before_all_other_chunks() -> None:
    shelf = Shelf()
    long, short = passage("long", "", "12345678901"), passage("short", "", "1234")
    indexed = await indexing(shelf).index("docs", [long, short], chunking=CHUNKING, deadline=0)
    assert shelf.calls == [["long", "short", "long##2", "long##3"]]
    assert [vector.decode() for vector in shelf.stored.values()] == ["12345", "1234", "67890", "1"]
    assert (indexed.count, indexed.passage_count) == (2, 4)


async def test_very_many_chunks_take_several_calls_the_first_with_something_of_every_document() -> None:
    shelf = Shelf()
    batch = [passage(identity, "", "x" * 5000) for identity in ("a", "b")]
    await indexing(shelf).index("docs", batch, chunking=CHUNKING, deadline=0)
    assert len(shelf.calls) == 4
    assert shelf.calls[0][:2] == ["a", "b"]
    assert len(shelf.stored) == 2000


async def test_what_is_wrong_with_a_chunk_is_told_of_its_document() -> None:
    shelf = Shelf()
    shelf.refused = {"b"}
    batch = [passage(identity, "", "x" * 50) for identity in ("a", "b")]
    with pytest.raises(InvalidArgument, match=r"documents\[1\]\.metadata\.year: is of another type") as refused:
        await indexing(shelf).index("docs", batch, chunking=CHUNKING, deadline=0)
    assert refused.value.field == "documents[1].metadata.year"
    assert not shelf.stored


@pytest.mark.parametrize("chunking", [None, CHUNKING])
async def test_a_document_that_the_model_cannot_compute_is_named(chunking: Chunking | None) -> None:
    shelf = Shelf()
    shelf.poison = "bad"
    batch = [passage("a", "", "fine and long enough"), passage("b", "", "well, long; bad"), passage("c", "", "good")]
    with pytest.raises(InvalidArgument) as refused:
        await indexing(shelf).index("docs", batch, chunking=chunking, deadline=0)
    assert (refused.value.field, refused.value.reason) == ("documents[1].text", "ROW_FAILED")
    assert not shelf.stored


async def test_a_large_batch_is_stored_in_slices_that_fit_a_message() -> None:
    shelf = Shelf()
    batch = [passage(f"d{number}", "", "x" * 31_000) for number in range(512)]
    indexed = await indexing(shelf).index("docs", batch, deadline=0)
    assert (indexed.count, len(shelf.stored)) == (512, 512)
    assert all(len(call) * 62_000 < 5 * 2**20 for call in shelf.calls)
    assert len(set(shelf.batches)) == 1
    assert len(shelf.batches[0]) == 32


async def test_metadata_that_every_chunk_repeats_fits_into_messages() -> None:
    shelf = Shelf()
    long = heavy(39_000)
    long.text = "x" * 2000
    await indexing(shelf).index("docs", [long], chunking=CHUNKING, deadline=0)
    assert len(shelf.stored) == 400
    assert max(map(len, shelf.calls)) * 39_000 < 5 * 2**20


async def test_of_a_batch_that_takes_several_calls_nothing_is_stored_where_its_last_document_is_refused() -> None:
    shelf = Shelf()
    shelf.refused = {"d511"}
    batch = [passage(f"d{number}", "", "x" * 31_000) for number in range(512)]
    with pytest.raises(InvalidArgument, match=r"documents\[511\]\.metadata\.year"):
        await indexing(shelf).index("docs", batch, deadline=0)
    assert not shelf.stored


async def test_a_large_batch_creates_its_collection() -> None:
    shelf = Shelf(exists=False)
    batch = [passage(f"d{number}", "", "x" * 31_000) for number in range(512)]
    await indexing(shelf).index("docs", batch, deadline=0)
    assert len(shelf.stored) == 512
