"""Passages of a collection: search, storing, deleting, reading.

A passage has a dense vector, compared by its cosine, and a sparse one (BM25, see `lexical`). A search asks for all
variants of a query at once, each by vector and by words; the results are fused (see `search`), and only the passages of
the fused head are read. An answer holds as many whole passages as a message has room for.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.chassis.errors import InvalidArgument
from services.chassis.validation import check_document_id
from services.retriever import paging
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.collections.ownership import check_owners, first_passages
from services.retriever.collections.turns import Turns
from services.retriever.documents import Owners, Passage, later_ids, outdated_ids
from services.retriever.fields import ALL, Filter
from services.retriever.metrics import RetrieverMetrics
from services.retriever.rows import MAX_BATCH, check_ids, check_passages, rows_for
from services.retriever.search.fusion import Fused
from services.retriever.search.likeness import NOTHING, likeness
from services.retriever.search.searches import (
    MAX_CANDIDATES,
    Candidate,
    LateQuery,
    QueryVariant,
    SearchResult,
    check_search,
    compare,
    find,
    plan,
)
from services.retriever.store import ANSWER_BYTES, Deadline, Parts, PassageStore, Reader, Row, point_id

MAX_DOCUMENTS = 100

_ROWS_AT_ONCE = 256
_SAMPLED_AT_ONCE = 16
_BATCH = re.compile(r"[0-9a-f]{32}")
# Most scrolls for a page of documents: with later chunks in between, few rows may begin a document.
_MOST_SCROLLS = 40


@dataclass(frozen=True, slots=True)
class Written:
    """Outcome of storing or deleting."""

    count: int
    """Number of passages stored, or of documents deleted."""
    version: str
    building: str
    """The version that is being built and has to follow; empty where there is none."""
    changed: Sequence[str]
    """Ids of the passages that are not as they were."""
    replaced: int = 0
    """Number of documents that were there before."""


class Replaced(NamedTuple):
    """Outcome of storing: what was there before."""

    chunks: Sequence[str]
    """Ids of chunks that documents have no more."""
    documents: int


class Documents(NamedTuple):
    """Documents by id, each as its passages."""

    found: list[list[Passage]]
    missing: list[str]
    remaining: list[str]
    """Ids for which the answer has no room."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Passages with their vectors, chosen by chance, and the number of all."""

    passages: Sequence[Passage]
    version: str
    count: int


class Passages:
    """Finds, stores, deletes and reads passages."""

    def __init__(
        self, store: PassageStore, collections: Collections, metrics: RetrieverMetrics, *, fusion_depth: int = 100
    ) -> None:
        """`fusion_depth` is the number of candidates that each search puts into the first block of the fusion."""
        self._store = store
        self._reader = Reader(store)
        self._collections = collections
        self._metrics = metrics
        self._fusion_depth = fusion_depth
        self._turns = Turns()

    async def search(  # noqa: PLR0913  all that a request holds
        self,
        collection: str,
        variants: Sequence[QueryVariant],
        *,
        limit: int,
        whole: int = MAX_CANDIDATES,
        condition: Filter = ALL,
        dense_weight: float = 1.0,
        lexical_weight: float = 1.0,
        model_fingerprint: str = "",
        model: str = "",
        like: str = "",
        owners: Owners = (),
        late: LateQuery | None = None,
        deadline: Deadline = None,
    ) -> SearchResult:
        """Return the best passages for all variants together, the first `whole` with their texts if there is room.

        Each variant is searched for by its vector with weight `variant.weight * dense_weight` and by its words with
        `variant.weight * lexical_weight`; a search without a vector, without words or without weight is left out. What
        is like the document `like` is searched for in the same way, and does not include it. The model of the vectors
        is named by its fingerprint, or else as `model`, by its fingerprint or name. The best are compared with `late`.
        """
        check_search(variants, like, limit, dense_weight, lexical_weight, model_fingerprint or model)
        if whole < 0:
            raise InvalidArgument("whole_count", f"is {whole}; send 0 or more")
        if late is not None:
            late.check()

        async def search(info: CollectionInfo) -> SearchResult:
            info.check_model(model_fingerprint)
            if model:
                info.check_named(model)
            for place, variant in enumerate(variants):
                if (vector := variant.vector) is not None:
                    info.check_vector(vector, path := f"variants[{place}].vector")
                    if model and not vector.any():
                        raise InvalidArgument(path, "has only zeros, which point nowhere; send another vector")
            if late is not None:
                info.check_token_model(late.fingerprint)
                info.check_tokens(late.tokens, "tokens")
            fitted = info.fitted(condition)
            searches = plan(variants, dense_weight, lexical_weight, info.bm25)
            liked = NOTHING
            if like:
                weights = (dense_weight, lexical_weight)
                liked = await likeness(self._store, info, like, fitted, owners, *weights, deadline)
            searches += liked.searches
            if not searches:
                return SearchResult((), info.version, 0, 0.0)
            started = time.monotonic()
            try:
                found = await find(
                    self._store,
                    info.version,
                    searches,
                    limit,
                    fitted,
                    block=self._fusion_depth,
                    deadline=deadline,
                    layout=info.layout,
                    without=liked.own,
                )
                candidates = await self._read(info.version, found, whole, late, deadline)
            finally:
                seconds = time.monotonic() - started
                self._metrics.observe_search(seconds)
            return SearchResult(candidates, info.version, len(searches), seconds)

        return await self._collections.using(collection, search, deadline)

    async def upsert(
        self,
        collection: str,
        passages: Sequence[Passage],
        *,
        model_fingerprint: str,
        token_model_fingerprint: str = "",
        batch: str = "",
        owners: Owners = (),
        deadline: Deadline = None,
    ) -> Written:
        """Store passages durably, replacing those with the same ids. All are valid, or none is stored.

        Raises PermissionDenied (NOT_OWN) where one would replace a document that is not of the `owners`.

        Chunks that a document had before and has no more are deleted. `batch` identifies passages that take several
        calls: chunks of a document that another batch has replaced meanwhile are left out.
        """
        check_passages(passages, model_fingerprint)
        if batch and not _BATCH.fullmatch(batch):
            raise InvalidArgument("batch", "must be 32 hexadecimal digits")
        fingerprints = (model_fingerprint, token_model_fingerprint)
        with self._collections.writing(collection, passages):
            # Not the trusted description: what is written to a version that an alias has just left would be lost.
            info = await self._collections.get(collection, deadline)
            while True:
                async with self._turns.of(info.version, {passage.document_id for passage in passages}, deadline):
                    await check_owners(self._store, info.version, passages, owners, deadline)
                    outdated = await self._replace(info, passages, fingerprints, batch, deadline)
                # Read after the writing: a version whose building begins later than this is filled from what is written
                # by now, and one that has begun is known to the caller. An alias that has moved wants it all once more,
                # and so does a version that is to have keys since.
                after = await self._collections.steady(collection, deadline)
                if (after.version, after.relations) == (info.version, info.relations):
                    changed = [*(passage.id for passage in passages), *outdated.chunks]
                    return Written(len(passages), info.version, after.building, changed, outdated.documents)
                info = after

    async def check(
        self,
        collection: str,
        passages: Sequence[Passage],
        *,
        model_fingerprint: str,
        owners: Owners = (),
        deadline: Deadline = None,
    ) -> None:
        """Raise what storing these passages would raise, but for their vectors; declare their fields."""
        check_passages(passages, model_fingerprint)
        info = await self._collections.get(collection, deadline)
        info.check_model(model_fingerprint)
        await check_owners(self._store, info.version, passages, owners, deadline)
        await self._collections.declare(info, passages, deadline)

    async def delete(
        self, collection: str, ids: Sequence[str], deadline: Deadline = None, owners: Owners = ()
    ) -> Written:
        """Delete documents with all their chunks, if they are of the `owners`."""
        _check_documents(ids, MAX_BATCH)
        info = await self._collections.get(collection, deadline)
        deleted, changed = 0, dict.fromkeys(ids)
        while True:
            async with self._turns.of(info.version, ids, deadline):
                firsts = await first_passages(self._store, info.version, ids, deadline, owners)
                later = [later for first in firsts.values() for later in later_ids(first)]
                if firsts:
                    await self._collections.uncount(info, deadline)
                for group in (later, firsts):
                    if group:
                        await self._store.remove(info.version, _points(group), deadline)
            deleted = max(deleted, len(firsts))
            changed |= dict.fromkeys(later)
            after = await self._collections.steady(collection, deadline)
            if after.version == info.version:
                return Written(deleted, info.version, after.building, list(changed))
            info = after

    async def get(
        self, collection: str, ids: Sequence[str], deadline: Deadline = None, owners: Owners = ()
    ) -> Documents:
        """Return the passages of each document that exists, and the ids that do not, in the order of `ids`.

        One that is not of the `owners` does not exist.
        """
        _check_documents(ids, MAX_DOCUMENTS)

        async def get(info: CollectionInfo) -> Documents:
            firsts = await first_passages(self._store, info.version, ids, deadline, owners)
            wanted = [document_id for document_id in ids if document_id in firsts]
            found = await self._whole(info.version, [firsts[one] for one in wanted], deadline)
            return Documents(
                [passages for passages in found if passages],
                [one for one in ids if one not in firsts],
                wanted[len(found) :],
            )

        return await self._collections.using(collection, get, deadline)

    async def read(self, collection: str, ids: Sequence[str], deadline: Deadline = None) -> tuple[list[Passage], int]:
        """Return the passages of these ids that exist, and the number of ids for which the answer has room."""
        check_ids(ids, "ids")

        async def read(info: CollectionInfo) -> tuple[list[Passage], int]:
            read = await self._reader.read(info.version, _points(ids), deadline)
            return [row.passage for row in read.whole.values()], read.end

        return await self._collections.using(collection, read, deadline)

    async def page(
        self,
        collection: str,
        condition: Filter = ALL,
        page_size: int = 0,
        page_token: str = "",
        deadline: Deadline = None,
    ) -> tuple[list[list[Passage]], str]:
        """Return the passages of the next documents whose first passage matches, and the next page's token.

        Documents come in the order of their points, which is the same in every version. A page may hold fewer than
        asked for, or none, though others follow.
        """
        size = paging.size_of(page_size, default=20, most=MAX_DOCUMENTS)
        question = (collection, condition)
        start = paging.decode(page_token, question) or None

        async def following(info: CollectionInfo) -> tuple[list[list[Passage]], str]:
            fitted = info.fitted(condition)
            firsts: list[Row] = []
            place = start
            for _ in range(_MOST_SCROLLS):
                rows, place = await self._store.scroll(info.version, place, _ROWS_AT_ONCE, Parts.KEYS, deadline, fitted)
                firsts += [row for row in rows if row.passage.document_id == row.passage.id]
                if place is None or len(firsts) > size:
                    break
            places = [row.id for row in firsts]
            wanted = [row.passage for row in firsts[:size]]
            found = await self._whole(info.version, wanted, deadline)
            if len(found) < len(firsts):
                place = places[len(found)]
            token = paging.encode(place, question) if place else ""
            return [passages for passages in found if passages], token

        return await self._collections.using(collection, following, deadline)

    async def sample(self, collection: str, limit: int, deadline: Deadline = None) -> Sample:
        """Return passages chosen by chance: points are hashes, so those that follow any of them are."""
        if not 1 <= limit <= MAX_BATCH:
            raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_BATCH}")
        version = (await self._collections.get(collection, deadline)).version
        found: dict[str, Passage] = {}
        size = 0
        for start in (str(uuid.UUID(int=random.getrandbits(128))), None):
            following, begun = start, False
            while len(found) < limit and size < ANSWER_BYTES and not (begun and following is None):
                some = min(limit - len(found), _SAMPLED_AT_ONCE)
                rows, following = await self._store.scroll(version, following, some, Parts.VECTOR, deadline)
                begun = True
                for row in rows:
                    size += row.passage.size + row.passage.vectors_size
                    if not found or size < ANSWER_BYTES:
                        found[row.id] = row.passage
        return Sample(list(found.values()), version, await self._store.count(version, deadline))

    async def _read(
        self, version: str, found: Sequence[Fused[str]], whole: int, late: LateQuery | None, deadline: Deadline
    ) -> list[Candidate]:
        """Read the first passages whole, as far as the answer has room, and the keys of the others; compare the best.

        One that was deleted since the search is not among the results.
        """
        points = [one.id for one in found]
        read, scores = await asyncio.gather(
            self._reader.read(version, points[:whole], deadline, keys=points[whole:]),
            compare(self._store, version, late, points, deadline),
        )
        rows = read.others | read.whole
        return [
            Candidate(rows[one.id].passage, one.score, one.id in read.whole, scores.get(one.id))
            for one in found
            if one.id in rows
        ]

    async def _replace(
        self,
        info: CollectionInfo,
        passages: Sequence[Passage],
        fingerprints: tuple[str, str],
        batch: str,
        deadline: Deadline,
    ) -> Replaced:
        """Store passages in a version; return what was there before."""
        info.check_model(fingerprints[0])
        info.check_token_model(fingerprints[1])
        revision = batch or uuid.uuid4().hex
        others = await self._replaced(info.version, passages, batch, deadline)
        passages = [passage for passage in passages if passage.document_id not in others]
        if not passages:
            return Replaced((), 0)
        rows = await rows_for(self._collections, info, [(passage, revision) for passage in passages], deadline)
        known = await self._store.read(info.version, [row.id for row in rows], Parts.KEYS, deadline)
        outdated = outdated_ids(passages, {row.passage.id: row.passage for row in known})
        if outdated:
            await self._collections.uncount(info, deadline)
            await self._store.remove(info.version, _points(outdated), deadline)
        await self._store.write(info.version, rows, deadline)
        # Replaced in this moment through another retriever, which did not know of chunks that were still to come.
        others = await self._replaced(info.version, passages, batch, deadline)
        if lost := [point_id(passage.id) for passage in passages if passage.document_id in others]:
            await self._store.remove(info.version, lost, deadline, dict.fromkeys(lost, revision))
        before = {row.passage.id for row in known if row.passage.document_id == row.passage.id}
        return Replaced(outdated, len(before & {passage.document_id for passage in passages if passage.id in before}))

    async def _replaced(
        self, version: str, passages: Sequence[Passage], batch: str, deadline: Deadline
    ) -> frozenset[str]:
        """Return the documents of later chunks whose first one, from another call of the batch, is no more there."""
        if not batch:
            return frozenset()
        here = {passage.id for passage in passages}
        documents = {passage.document_id for passage in passages} - here
        if not documents:
            return frozenset()
        rows = await self._store.read(version, _points(documents), Parts.KEYS, deadline)
        return frozenset(documents - {row.passage.id for row in rows if row.revision == batch})

    async def _whole(self, version: str, firsts: Sequence[Passage], deadline: Deadline) -> list[list[Passage]]:
        """Return the passages of the first documents that have room, but of one at least.

        Of a document that has just been deleted there are none.
        """
        points = [point_id(passage_id) for first in firsts for passage_id in first.chunk_ids]
        least = len(firsts[0].chunk_ids) if firsts else 1
        found, end, _ = await self._reader.read(version, points, deadline, least=least)
        documents: list[list[Passage]] = []
        start = 0
        for first in firsts:
            following = start + len(first.chunk_ids)
            if following > end:
                break
            documents.append([found[point].passage for point in points[start:following] if point in found])
            start = following
        return documents


def _check_documents(ids: Sequence[str], most: int) -> None:
    check_ids(ids, "ids", most)
    for place, document_id in enumerate(ids):
        check_document_id(f"ids[{place}]", document_id)


def _points(passage_ids: Iterable[str]) -> list[str]:
    return [point_id(passage_id) for passage_id in passage_ids]
