"""Collections of passages in Qdrant: what goes in, what comes out, and which model may touch which collection.

A passage is a point with a dense vector, compared by its cosine, and a sparse one (BM25, see `lexical`). A search asks
for all variants of a question at once, each by vector and by words; what they find is fused here (see `fusion`), and
only what comes out is read.

A collection keeps in its own metadata what it takes to use it rightly: the model that made its vectors, its lexical
settings, and the types of the fields that its passages carry. A name is an alias of a version, as `documents` of
`documents-v3` (see `versions`), or that of a collection from a release without versions. Reading goes to the version
that the description was read from, so that what is checked (model, dimension, fields) and what is searched are the
same collection even while the alias moves.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from qdrant_client import AsyncQdrantClient, models

from services.chassis.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from services.retriever import documents, fields, lexical
from services.retriever.documents import Chunk, Passage, Vector
from services.retriever.engines import conversions
from services.retriever.fields import FieldType, Filter, Schema
from services.retriever.fusion import Found, fuse
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from sluice.type.v1 import collection_pb2, model_pb2

T = TypeVar("T")

MAX_VARIANTS = 16
MAX_QUERY_BYTES = 16_384
MAX_CANDIDATES = 1000
MAX_BATCH = 1000
MAX_ID_BYTES = 512
MAX_DIMENSION = 65_536
MAX_FIELDS = 256

DENSE, LEXICAL = "dense", "lexical"
REVISION = "revision"

# How long a description of a collection is trusted for reading. A call that does not fit it has it read again first.
_TRUSTED_SECONDS = 5.0
# Points have UUIDs for ids. Never change this: it would orphan everything that is stored.
_POINT_IDS = uuid.UUID("5b0f3d5e-3c1c-4f5a-9d0e-6c3f0f6a7b11")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_OLDEST_QDRANT = (1, 17)


@dataclass(frozen=True, slots=True)
class QueryVariant:
    """One way to ask: by words, by vector, or both."""

    text: str
    vector: Vector | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class CollectionModel:
    """The model whose vectors a collection holds; no other may write to it or query it."""

    name: str
    fingerprint: str
    dimension: int
    precision: str

    @classmethod
    def from_proto(cls, message: model_pb2.ModelInfo) -> CollectionModel:
        """Read the part of a model that a collection keeps."""
        return cls(message.name, message.fingerprint, message.dimension, message.precision)

    def to_proto(self) -> model_pb2.ModelInfo:
        """Write the model."""
        return model_pb2.ModelInfo(
            name=self.name, fingerprint=self.fingerprint, dimension=self.dimension, precision=self.precision
        )


class VersionState(enum.StrEnum):
    """How far a version is; nothing is switched to one that is being built."""

    BUILDING = "building"
    READY = "ready"

    def to_proto(self) -> collection_pb2.VersionState.ValueType:
        """Write the state."""
        return collection_pb2.VersionState.Value(f"VERSION_STATE_{self.name}")


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection says of itself."""

    name: str
    """As it was asked for; possibly an alias."""
    version: str
    """The collection behind the name."""
    model: CollectionModel
    passage_count: int
    bm25: Bm25
    schema: Schema
    created: datetime
    collection: str
    """What it is a version of; its own name where a release without versions made it."""
    state: VersionState = VersionState.READY
    source: str = ""
    """What it was made from, for people."""
    built_from: str = ""
    """The live version that it is, or was, filled from."""
    building: str = ""
    """The version that is being filled from it: whatever is written here has to get there, too."""
    previous: str = ""
    """The version that was live before it."""

    def to_proto(self, *, live: bool) -> collection_pb2.CollectionVersion:
        """Write the description; `live` is true if the collection's name stands for this version."""
        message = collection_pb2.CollectionVersion(
            collection=self.collection,
            version=self.version,
            live=live,
            state=self.state.to_proto(),
            model=self.model.to_proto(),
            passage_count=self.passage_count,
            fields={name: kind.to_proto() for name, kind in self.schema.items()},
            lexical_settings=str(self.bm25),
            source=self.source,
            building_version=self.building,
            previous_version=self.previous,
        )
        message.create_time.FromDatetime(self.created)
        return message


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The candidates, best first, and where they come from.

    Scores are those of the fusion, or of the only search that ran (a cosine, or BM25): comparable within one result.
    """

    candidates: Sequence[Candidate]
    version: str
    fused_searches: int
    seconds: float


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """How many passages were stored, the version that took them, and the one that has to follow, if any."""

    count: int
    version: str
    building: str
    changed: Sequence[str]
    """Ids of the passages that are not as they were."""


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """How many passages were deleted, and the version that has to follow, if any."""

    count: int
    building: str
    changed: Sequence[str]
    """Ids of the passages that are not as they were."""


class Qdrant(Protocol):
    """Where collections live; see `backends`."""

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded engine, which has no payload indexes."""

    async def call(
        self, operation: Callable[[AsyncQdrantClient], Awaitable[T]], *, name: str = "", deadline: float | None = None
    ) -> T:
        """Runs an operation with Qdrant's client, perhaps twice, and raises the errors of `common.errors`.

        `name` is what traces call it; by default the operation's own.
        """


class Index:
    """The retriever's domain. Every `deadline` is a moment on the monotonic clock."""

    def __init__(self, qdrant: Qdrant, metrics: RetrieverMetrics, *, bm25: Bm25, fusion_depth: int = 100) -> None:
        """`bm25` is for new collections; `fusion_depth` is the fewest candidates each search puts into the fusion."""
        self._qdrant = qdrant
        self._metrics = metrics
        self._bm25 = bm25
        self._fusion_depth = fusion_depth
        self._descriptions: dict[str, tuple[float, CollectionInfo]] = {}
        self._declaring = asyncio.Lock()

    async def check(self, *, deadline: float | None = None) -> None:
        """Raises what keeps Qdrant from answering, or FailedPrecondition if it is too old for conditional updates."""
        if self._qdrant.embedded:
            return  # part of this process: a question would only queue behind the work
        version = (await self._qdrant.call(lambda client: client.info(), name="info", deadline=deadline)).version
        if tuple(map(int, version.split(".")[:2])) < _OLDEST_QDRANT:
            wanted = ".".join(map(str, _OLDEST_QDRANT))
            raise FailedPrecondition(
                f"Qdrant {version} ignores the conditions of an update; run {wanted} or newer", reason="QDRANT_TOO_OLD"
            )

    async def search(
        self,
        collection: str,
        variants: Sequence[QueryVariant],
        *,
        limit: int,
        condition: Filter | None = None,
        dense_weight: float = 1.0,
        lexical_weight: float = 1.0,
        model_fingerprint: str = "",
        deadline: float | None = None,
    ) -> SearchResult:
        """The best passages for all variants together.

        Each variant is searched for by its vector with weight `variant.weight * dense_weight` and by its words with
        `variant.weight * lexical_weight`; a search without a vector, without words (other than stop words) or
        without weight is left out.
        """
        _check_search(variants, limit, dense_weight, lexical_weight, model_fingerprint)

        async def search(info: CollectionInfo) -> SearchResult:
            check_model(info, model_fingerprint)
            for position, variant in enumerate(variants):
                _check_vector(variant.vector, info, f"variants[{position}].vector")
            query_filter = conversions.to_filter((condition or Filter()).fit(info.schema))
            searches = plan(variants, dense_weight, lexical_weight)
            if not searches:
                return SearchResult((), info.version, 0, 0.0)
            started = time.monotonic()
            try:
                candidates = await self._qdrant.call(
                    lambda client: _find(client, info.version, searches, query_filter, limit, self._fusion_depth),
                    name="search",
                    deadline=deadline,
                )
            finally:
                seconds = time.monotonic() - started
                self._metrics.observe_search(seconds)
            return SearchResult(candidates, info.version, len(searches), seconds)

        return await self._with_description(collection, search, deadline)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        *,
        model_fingerprint: str,
        deadline: float | None = None,
    ) -> UpsertResult:
        """Stores passages, durably, replacing those with the same ids. All are valid, or none goes.

        Chunks that a document had before and has no more are deleted.
        """
        check_batch([passage.id for passage in passages], "passages", suffix=".id")
        _check_unique(passages)
        documents.check_chunks(passages)
        if not model_fingerprint:
            raise InvalidArgument("model_fingerprint", "is empty; send that of the model that made the vectors")
        # Not the trusted description: what is written to a version that an alias has just left would be lost.
        info = await self.get_collection(collection, deadline=deadline)
        while True:
            outdated = await self._store(info, passages, model_fingerprint, deadline)
            # Read after the writing: a version whose building begins later than this is filled from what is written
            # by now, and one that has begun is known to the caller. An alias that has moved wants it all once more.
            after = await self.get_collection(collection, deadline=deadline)
            if after.version == info.version:
                changed = [*(passage.id for passage in passages), *outdated]
                return UpsertResult(len(passages), info.version, after.building, changed)
            info = after

    async def _store(
        self, info: CollectionInfo, passages: Sequence[Passage], model_fingerprint: str, deadline: float | None
    ) -> list[str]:
        """Returns the ids of chunks that were deleted."""
        check_model(info, model_fingerprint)
        info = await self.prepared(info, passages, deadline=deadline)
        revision = uuid.uuid4().hex
        # Weighing the words of a large batch takes long enough to hold up everybody else.
        points = await asyncio.to_thread(lambda: [to_point(passage, info, revision) for passage in passages])
        known = await self._parts(info.version, [passage.id for passage in passages], deadline)
        outdated = documents.outdated_ids(passages, known)

        async def store(client: AsyncQdrantClient) -> None:
            if outdated:
                await client.delete(info.version, models.PointIdsList(points=_point_ids(outdated)), wait=True)
            await client.upsert(info.version, points, wait=True)

        await self._qdrant.call(store, deadline=deadline)
        return outdated

    async def prepared(
        self, info: CollectionInfo, passages: Sequence[Passage], *, deadline: float | None
    ) -> CollectionInfo:
        """The description with all fields of these passages declared; InvalidArgument if one of them does not fit."""
        for position, passage in enumerate(passages):
            _check_vector(passage.vector, info, f"passages[{position}].vector", required=True)
        if _undeclared(passages, info.schema):
            return await self._declare(info.version, passages, deadline)
        return info

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float | None = None) -> DeleteResult:
        """Deletes documents with all their chunks; tells how many of them existed."""
        check_batch(ids, "ids")
        info = await self.get_collection(collection, deadline=deadline)
        deleted, changed = 0, dict.fromkeys(ids)
        while True:
            known = await self._parts(info.version, list(dict.fromkeys(ids)), deadline)
            firsts = [passage for passage in known.values() if passage.document_id == passage.id]
            later = [later for first in firsts for later in documents.later_ids(first)]

            async def delete(
                client: AsyncQdrantClient,
                version: str = info.version,
                groups: Sequence[Iterable[str]] = (later, [first.id for first in firsts]),
            ) -> None:
                for points in map(_point_ids, groups):
                    if points:
                        await client.delete(version, models.PointIdsList(points=points), wait=True)

            await self._qdrant.call(delete, deadline=deadline)
            deleted = max(deleted, len(firsts))
            changed |= dict.fromkeys(later)
            after = await self.get_collection(collection, deadline=deadline)
            if after.version == info.version:
                return DeleteResult(deleted, after.building, list(changed))
            info = after

    async def get(
        self, collection: str, ids: Sequence[str], *, deadline: float | None = None
    ) -> tuple[list[Passage], list[str]]:
        """The passages that exist, and the ids that do not, both in the order of `ids`."""
        check_batch(ids, "ids")
        points = [point_id(passage_id) for passage_id in dict.fromkeys(ids)]

        async def get(info: CollectionInfo) -> tuple[list[Passage], list[str]]:
            records = await self._qdrant.call(
                lambda client: client.retrieve(info.version, points, with_payload=True),
                name="retrieve",
                deadline=deadline,
            )
            found = {passage.id: passage for passage in (to_passage(record.payload) for record in records)}
            missing = [passage_id for passage_id in ids if passage_id not in found]
            return [found[passage_id] for passage_id in ids if passage_id in found], missing

        return await self._with_description(collection, get, deadline)

    async def create_collection(
        self, collection: str, model: CollectionModel, *, deadline: float | None = None
    ) -> CollectionInfo:
        """Creates the empty first version of a collection and its alias; AlreadyExists if the name is taken.

        Of several that create it at once, one succeeds, or all find its version.
        """
        try:
            await self.get_collection(collection, deadline=deadline)
        except NotFound:
            pass
        else:
            raise AlreadyExists(f"collection {collection!r} exists already", reason="COLLECTION_EXISTS")
        first = self.described(collection, 1, model)
        try:
            await self.make(first, deadline=deadline)
        except AlreadyExists:
            # Somebody creates it in this moment, or died before the alias was made.
            found = await self.get_collection(first.version, deadline=deadline)
            check_model(found, model.fingerprint)
        alias = models.CreateAlias(alias_name=collection, collection_name=first.version)

        async def point(client: AsyncQdrantClient) -> None:
            if all(known.alias_name != collection for known in (await client.get_aliases()).aliases):
                await client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])

        await self._qdrant.call(point, deadline=deadline)
        return replace(first, name=collection)

    def described(self, collection: str, number: int, model: CollectionModel) -> CollectionInfo:
        """An empty version of a collection with this retriever's lexical settings, not yet made."""
        check_name(collection)
        if not model.fingerprint:
            raise InvalidArgument("model.fingerprint", "is empty; send that of the model that makes the vectors")
        if not 1 <= model.dimension <= MAX_DIMENSION:
            raise InvalidArgument("model.dimension", f"is {model.dimension}; send 1 to {MAX_DIMENSION}")
        version = version_name(collection, number)
        return CollectionInfo(
            name=version,
            version=version,
            model=model,
            passage_count=0,
            bm25=self._bm25,
            schema={},
            created=datetime.now(UTC),
            collection=collection,
            source="written",
        )

    async def make(self, info: CollectionInfo, *, deadline: float | None = None) -> None:
        """Makes the collection that `info` describes; AlreadyExists if there is one of the name."""

        async def make(client: AsyncQdrantClient) -> None:
            await client.create_collection(
                info.version,
                **collection_layout(info.model.dimension),
                metadata={**_to_metadata(info), **_schema_metadata(info.schema)},
            )
            await self._index_fields(client, info.version, info.schema)

        await self._qdrant.call(make, deadline=deadline)

    async def get_collection(self, collection: str, *, deadline: float | None = None) -> CollectionInfo:
        """Describes the version that a name stands for now; of a version's own name, that version."""
        return await self._describe(collection, deadline)

    async def _parts(self, version: str, ids: Sequence[str], deadline: float | None) -> dict[str, Passage]:
        """The passages that exist of these, by id: without text and metadata."""
        points = _point_ids(ids)
        records = await self._qdrant.call(
            lambda client: client.retrieve(version, points, with_payload=["id", "chunk"]),
            name="retrieve",
            deadline=deadline,
        )
        return {
            payload["id"]: Passage(payload["id"], chunk=_chunk(payload))
            for payload in (record.payload or {} for record in records)
        }

    async def note(self, version: str, notes: Mapping[str, str], *, deadline: float | None = None) -> None:
        """Records something in the metadata of a version."""
        await self._qdrant.call(
            lambda client: client.update_collection(version, metadata=dict(notes)),
            name="update_collection",
            deadline=deadline,
        )
        self.forget()

    def forget(self) -> None:
        """Trusts no description any more."""
        self._descriptions.clear()

    async def _with_description(
        self, collection: str, use: Callable[[CollectionInfo], Awaitable[T]], deadline: float | None
    ) -> T:
        """Runs `use` on the trusted description, and once more on a new one if it turns out not to fit."""
        read, info = self._descriptions.get(collection, (-math.inf, None))
        if info is not None and time.monotonic() - read < _TRUSTED_SECONDS:
            try:
                return await use(info)
            except (InvalidArgument, FailedPrecondition, NotFound):
                pass
        info = await self._describe(collection, deadline)
        try:
            return await use(info)
        except NotFound:  # deleted between the look and the use: another version has taken over
            return await use(await self._describe(collection, deadline))

    async def _describe(self, collection: str, deadline: float | None) -> CollectionInfo:
        check_name(collection)

        async def describe(client: AsyncQdrantClient) -> tuple[str, models.CollectionInfo]:
            aliases = {alias.alias_name: alias.collection_name for alias in (await client.get_aliases()).aliases}
            version = aliases.get(collection, collection)
            return version, await client.get_collection(version)

        try:
            version, described = await self._qdrant.call(describe, deadline=deadline)
        except NotFound:
            version, described = await self._heir(collection, deadline)
        info = _from_metadata(collection, version, described)
        self._descriptions[collection] = (time.monotonic(), info)
        return info

    async def _heir(self, collection: str, deadline: float | None) -> tuple[str, models.CollectionInfo]:
        """The version that is just taking the name over from a collection of an earlier release, see `versions`."""

        async def find(client: AsyncQdrantClient) -> tuple[str, models.CollectionInfo] | None:
            for known in (await client.get_collections()).collections:
                if number_of(collection, known.name):
                    described = await client.get_collection(known.name)
                    if (described.config.metadata or {}).get("supersedes") == collection:
                        return known.name, described
            return None

        found = await self._qdrant.call(find, deadline=deadline)
        if found is None:
            self._descriptions.pop(collection, None)
            raise NotFound(
                f"collection {collection!r} does not exist; create it with CreateCollection",
                reason="COLLECTION_NOT_FOUND",
                collection=collection,
            ) from None
        return found

    async def _declare(self, version: str, passages: Sequence[Passage], deadline: float | None) -> CollectionInfo:
        """Records the types of fields that a version has not seen yet; one batch at a time, so that none is lost.

        Two retrievers that declare the same field with different types in the same instant are not kept apart.
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await self._declaring.acquire()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while other new fields were declared") from None
        try:
            info = await self._describe(version, deadline)
            new = _undeclared(passages, info.schema)
            schema = {**info.schema, **new}

            async def declare(client: AsyncQdrantClient) -> None:
                await self._index_fields(client, version, new)
                await client.update_collection(version, metadata=_schema_metadata(new))

            if new:
                await self._qdrant.call(declare, deadline=deadline)
                self.forget()
            return replace(info, schema=schema)
        finally:
            self._declaring.release()

    async def _index_fields(self, client: AsyncQdrantClient, version: str, schema: Schema) -> None:
        if self._qdrant.embedded:
            return
        for name, kind in schema.items():
            index = models.PayloadSchemaType(kind.value)
            await client.create_payload_index(version, conversions.payload_key(name), index, wait=True)


class Search(NamedTuple):
    """One of the searches that are fused."""

    using: str
    query: list[float] | models.SparseVector
    weight: float


def plan(variants: Sequence[QueryVariant], dense_weight: float, lexical_weight: float) -> list[Search]:
    """The searches for these variants, each variant's dense one before its lexical one."""
    searches: list[Search] = []
    for variant in variants:
        if variant.vector is not None and dense_weight > 0:
            searches.append(Search(DENSE, _unit(variant.vector), variant.weight * dense_weight))
        if lexical_weight > 0:
            indices, values = lexical.query_vector(variant.text)
            if indices:
                words = models.SparseVector(indices=indices, values=values)
                searches.append(Search(LEXICAL, words, variant.weight * lexical_weight))
    return searches


async def _find(
    client: AsyncQdrantClient,
    version: str,
    searches: Sequence[Search],
    query_filter: models.Filter | None,
    limit: int,
    depth: int,
) -> list[Candidate]:
    """The best passages of all searches together: their ids and scores in one round trip, the best of them in another.

    A single search needs only one, and its scores stay as they are. A passage that is deleted between the two is not
    among the results.
    """
    alone = len(searches) == 1
    reach = limit if alone else max(limit, depth)
    requests = [
        models.QueryRequest(
            query=search.query,
            using=search.using,
            filter=query_filter,
            limit=reach,
            with_payload=alone,
        )
        for search in searches
    ]
    found = [response.points for response in await client.query_batch_points(version, requests)]
    if alone:
        return [Candidate(to_passage(point.payload), point.score) for point in found[0]]
    fused = fuse(
        [
            Found([(str(point.id), point.score) for point in points], search.weight, whole=len(points) < reach)
            for search, points in zip(searches, found, strict=True)
        ]
    )[:limit]
    records = await client.retrieve(version, [point.id for point in fused], with_payload=True)
    payloads = {record.id: record.payload for record in records}
    return [Candidate(to_passage(payloads[point.id]), point.score) for point in fused if point.id in payloads]


def _unit(vector: Vector) -> list[float]:
    """The vector at length 1; one of zeros stays as it is."""
    length = np.linalg.norm(vector.astype(np.float64))
    unit: list[float] = (vector / (length or 1.0)).astype(np.float32).tolist()
    return unit


def collection_layout(dimension: int) -> dict[str, Any]:
    """The arguments of `create_collection` that say which vectors passages have."""
    return {
        # Of unit vectors, the dot product is the cosine, and the embedded engine ten times faster at it.
        "vectors_config": {DENSE: models.VectorParams(size=dimension, distance=models.Distance.DOT)},
        "sparse_vectors_config": {LEXICAL: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    }


def version_name(collection: str, number: int) -> str:
    """The name of a version, counted from 1."""
    name = f"{collection}-v{number}"
    check_name(name)
    return name


def number_of(collection: str, version: str) -> int:
    """The number in a version's name; 0 where it is not the name of a version of this collection."""
    found = re.fullmatch(re.escape(collection) + r"-v([1-9]\d{0,8})", version)
    return int(found[1]) if found else 0


def point_id(passage_id: str) -> str:
    """Qdrant's id of a passage: the same in every version."""
    return str(uuid.uuid5(_POINT_IDS, passage_id))


def _point_ids(passage_ids: Iterable[str]) -> list[models.ExtendedPointId]:
    return [point_id(passage_id) for passage_id in passage_ids]


def to_point(passage: Passage, info: CollectionInfo, revision: str) -> models.PointStruct:
    """The point for a passage; `revision` identifies the write that made it."""
    assert passage.vector is not None  # noqa: S101  checked before
    vectors: dict[str, Any] = {DENSE: _unit(passage.vector)}
    indices, values = info.bm25.passage_vector(passage.text, passage.title)
    if indices:
        vectors[LEXICAL] = models.SparseVector(indices=indices, values=values)
    payload = {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "metadata": {name: fields.stored(value, info.schema[name]) for name, value in passage.metadata.items()},
        REVISION: revision,
    }
    if passage.chunk:
        payload["chunk"] = asdict(passage.chunk)
    return models.PointStruct(id=point_id(passage.id), vector=vectors, payload=payload)


def to_passage(payload: Mapping[str, Any] | None, vector: Vector | None = None) -> Passage:
    """The passage of a point."""
    payload = payload or {}
    return Passage(
        id=payload["id"],
        title=payload["title"],
        text=payload["text"],
        metadata=payload["metadata"],
        vector=vector,
        chunk=_chunk(payload),
    )


def _chunk(payload: Mapping[str, Any]) -> Chunk | None:
    chunk = payload.get("chunk")
    return Chunk(chunk["number"], chunk["count"], chunk["start"], chunk["end"]) if chunk else None


def _to_metadata(info: CollectionInfo) -> dict[str, Any]:
    return {
        "model": info.model.name,
        "model_fingerprint": info.model.fingerprint,
        "dimension": info.model.dimension,
        "precision": info.model.precision,
        "distance": "cosine",
        "analyzer": lexical.ANALYZER,
        "k1": info.bm25.k1,
        "b": info.bm25.b,
        "average_length": info.bm25.average_length,
        "title_weight": info.bm25.title_weight,
        "created": info.created.isoformat(),
        "index_version": info.version,
        "collection": info.collection,
        "state": info.state.value,
        "source": info.source,
        "built_from": info.built_from,
    }


def _schema_metadata(schema: Schema) -> dict[str, str]:
    """A key for each field, as Qdrant merges metadata by key: two who declare different fields keep both."""
    return {f"field:{name}": kind.value for name, kind in schema.items()}


def _from_metadata(name: str, version: str, described: models.CollectionInfo) -> CollectionInfo:
    metadata = described.config.metadata or {}
    if "model_fingerprint" not in metadata:
        raise FailedPrecondition(
            f"collection {name!r} was not made by Sluice, so its model is unknown; create another one",
            reason="FOREIGN_COLLECTION",
        )
    if metadata["analyzer"] != lexical.ANALYZER:
        raise FailedPrecondition(
            f"collection {name!r} has its words analysed by {metadata['analyzer']}, and this release by "
            f"{lexical.ANALYZER}; index it anew",
            reason="ANALYZER_MISMATCH",
        )
    return CollectionInfo(
        name=name,
        version=version,
        model=CollectionModel(
            name=metadata["model"],
            fingerprint=metadata["model_fingerprint"],
            dimension=metadata["dimension"],
            precision=metadata["precision"],
        ),
        passage_count=described.points_count or 0,
        bm25=Bm25(
            k1=metadata["k1"],
            b=metadata["b"],
            average_length=metadata["average_length"],
            title_weight=metadata.get("title_weight", 1.0),
        ),
        schema={
            key.removeprefix("field:"): FieldType(kind) for key, kind in metadata.items() if key.startswith("field:")
        },
        created=datetime.fromisoformat(metadata["created"]),
        collection=metadata.get("collection", version),
        state=VersionState(metadata.get("state", VersionState.READY)),
        source=metadata.get("source", ""),
        built_from=metadata.get("built_from", ""),
        building=metadata.get("building", ""),
        previous=metadata.get("previous", ""),
    )


def check_name(collection: str) -> None:
    """Raises InvalidArgument for what cannot be the name of a collection or a version."""
    if not _NAME.fullmatch(collection):
        raise InvalidArgument("collection", 'must be 1 to 128 letters, digits, "_" or "-"')


def _check_search(
    variants: Sequence[QueryVariant], limit: int, dense_weight: float, lexical_weight: float, fingerprint: str
) -> None:
    if not 1 <= limit <= MAX_CANDIDATES:
        raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_CANDIDATES}")
    for name, weight in (("dense_weight", dense_weight), ("lexical_weight", lexical_weight)):
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidArgument(name, f"is {weight}; send 0 or more")
    if not 1 <= len(variants) <= MAX_VARIANTS:
        raise InvalidArgument("variants", f"has {len(variants)} variants; send 1 to {MAX_VARIANTS}")
    for position, variant in enumerate(variants):
        path = f"variants[{position}]"
        if not (math.isfinite(variant.weight) and variant.weight > 0):
            raise InvalidArgument(f"{path}.weight", f"is {variant.weight}; send more than 0")
        if len(variant.text.encode()) > MAX_QUERY_BYTES:
            raise InvalidArgument(f"{path}.text", f"is longer than {MAX_QUERY_BYTES} bytes")
        if variant.vector is not None and not fingerprint:
            raise InvalidArgument("model_fingerprint", "is empty; send that of the model that made the vectors")
    by_vector = dense_weight > 0 and any(variant.vector is not None for variant in variants)
    by_words = lexical_weight > 0 and any(variant.text.strip() for variant in variants)
    if not (by_vector or by_words):
        raise InvalidArgument("variants", "leave nothing to search with: send a text or a vector that has weight")


def check_model(info: CollectionInfo, fingerprint: str) -> None:
    """Raises FailedPrecondition (MODEL_MISMATCH) if a collection holds vectors of another model; none is any."""
    if fingerprint and fingerprint != info.model.fingerprint:
        raise FailedPrecondition(
            f"collection {info.name!r} holds vectors of {info.model.name} (fingerprint {info.model.fingerprint}), "
            f"not of the model with fingerprint {fingerprint}; use that model, or index the collection anew",
            reason="MODEL_MISMATCH",
            collection=info.version,
            collection_fingerprint=info.model.fingerprint,
        )


def _check_vector(vector: Vector | None, info: CollectionInfo, path: str, *, required: bool = False) -> None:
    if vector is None:
        if required:
            raise InvalidArgument(path, f"is missing; send {info.model.dimension} values")
        return
    if vector.shape != (info.model.dimension,):
        shape = " x ".join(map(str, vector.shape))
        raise InvalidArgument(
            path,
            f"has {shape} values, and collection {info.name!r} holds vectors of {info.model.dimension}",
            reason="WRONG_DIMENSION",
        )
    if not np.isfinite(vector).all():
        raise InvalidArgument(path, "has a value that is not a finite number")


def check_batch(ids: Sequence[str], path: str, suffix: str = "") -> None:
    """Raises InvalidArgument unless there are 1 to 1000 ids of a length that is stored."""
    if not 1 <= len(ids) <= MAX_BATCH:
        raise InvalidArgument(path, f"has {len(ids)} entries; send 1 to {MAX_BATCH}")
    for position, passage_id in enumerate(ids):
        if not 1 <= len(passage_id.encode()) <= MAX_ID_BYTES:
            raise InvalidArgument(f"{path}[{position}]{suffix}", f"must be 1 to {MAX_ID_BYTES} bytes long")


def _check_unique(passages: Sequence[Passage]) -> None:
    first: dict[str, int] = {}
    for position, passage in enumerate(passages):
        if (before := first.setdefault(passage.id, position)) != position:
            raise InvalidArgument(
                f"passages[{position}].id", f"is that of passages[{before}] too; send each id once",
                reason="DUPLICATE_ID",
            )  # fmt: skip


def _undeclared(passages: Sequence[Passage], schema: Schema) -> dict[str, FieldType]:
    """The fields that a batch adds to the schema; InvalidArgument if a value contradicts it or an earlier one."""
    new: dict[str, FieldType] = {}
    for position, passage in enumerate(passages):
        path = f"passages[{position}].metadata"
        new |= fields.declare(passage.metadata, {**schema, **new}, path)
        if len(schema) + len(new) > MAX_FIELDS:
            raise InvalidArgument(path, f"brings the collection to more than {MAX_FIELDS} fields")
    return new
