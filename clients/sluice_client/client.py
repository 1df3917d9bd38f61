"""The asyncio client of a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Unpack

from google.protobuf.message import Message

from sluice.gateway.v1 import (
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
)
from sluice.type.v1.features_pb2 import Features
from sluice_client import indexing
from sluice_client.answering import Answering
from sluice_client.answers import Answer, Comparison, Counts, Result, SearchOptions
from sluice_client.channel import Credentials
from sluice_client.documents import Chunking, Document, FoundDocuments, Indexed, StoredDocument
from sluice_client.enrichment import Enriching
from sluice_client.errors import SluiceError
from sluice_client.feedback.recording import Recording
from sluice_client.filters import Filter
from sluice_client.indexing import DocumentT
from sluice_client.messages import fill
from sluice_client.status import Config, Explaining
from sluice_client.versions import (
    CollectionVersion,
    Layout,
    ListedVersion,
    ReindexProgress,
    Snapshot,
    SnapshotProgress,
    Switched,
    Verified,
)

_SERVICE = "sluice.gateway.v1.SearchService"
# The longest that a server takes: snapshots go through all passages.
_SNAPSHOT_SECONDS = 3600.0


class AsyncClient(Answering, Enriching, Explaining, Recording):
    """A client of one gateway, used as `async with AsyncClient(address) as client:`.

    `timeout` is the deadline, in seconds, of every call that sets none of its own. Calls that embed or copy have
    `index_timeout`, which grows with the text of a batch. What a busy gateway sheds is sent again within the deadline,
    unless `waits` is False. It may ask for `Credentials`; opening raises OSError for an unreadable file of `tls`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float = 10.0,
        index_timeout: float = 120.0,
        waits: bool = True,
        **credentials: Unpack[Credentials],
    ) -> None:
        super().__init__(address, server="the gateway", service=_SERVICE, timeout=timeout, waits=waits, **credentials)
        self._index_timeout = index_timeout

    async def search(
        self, query: str = "", *, page_token: str = "", timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> Answer:
        """Answer a question with one page of results; see `SearchOptions`.

        The question has at most 8,192 bytes, and may be left out beside a document or a vector. `page_token` is
        `next_page_token` of the page before; all else must be as it was then. `timeout` is the deadline in seconds.
        Raises SluiceError if the question was refused, or a required stage failed; failures of other stages are in the
        answer's `stages`.
        """
        request = fill(search_pb2.SearchRequest(), query=query, page_token=page_token, **options)
        return Answer.from_proto(await self._call(self._searching.Search, request, timeout))

    async def compare(
        self,
        query: str,
        *,
        enhanced: Features | None = None,
        feature: str = "",
        persistence: float | None = None,
        timeout: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Comparison:
        """Answer a question twice: as now, and with more switched on.

            compared = await client.compare("read a file line by line", enhanced=Features(rerank=True))
            print(compared.rank_biased_overlap, compared.enhanced_duration - compared.standard_duration)

        Args:
            query: The question.
            enhanced: Flags of the enhanced answer; if neither this nor `feature` is given, expansion and reranking on.
            feature: Name of a feature of the rollout, instead: its users' flags.
            persistence: Parameter of the rank-biased overlap, above 0 and below 1; 0.9 if not given.
            timeout: Deadline of both answers together, in seconds.
            options: Options of both answers; the limit is also the depth of the comparison.

        Raises:
            SluiceError: The question was refused, there is no such feature, or a required stage failed.
        """
        search = fill(search_pb2.SearchRequest(), query=query, **options)
        request = fill(
            search_pb2.CompareSearchRequest(search=search), enhanced=enhanced, feature=feature, persistence=persistence
        )
        return Comparison.from_proto(await self._call(self._searching.CompareSearch, request, timeout))

    async def pages(
        self, query: str = "", *, timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[Answer]:
        """Iterate over the pages of an answer, each asked for when needed."""
        token = ""
        while True:
            page = await self.search(query, page_token=token, timeout=timeout, **options)
            yield page
            token = page.next_page_token
            if not token:
                return

    async def search_all(
        self, query: str = "", *, timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> AsyncIterator[Result]:
        """Iterate over all results, best first; `limit` is the page size.

        async for result in client.search_all("compare two files", limit=100):
            print(result.rank, result.passage.title)
        """
        async for page in self.pages(query, timeout=timeout, **options):
            for result in page.results:
                yield result

    async def count_by_field(
        self,
        *fields: str,
        collection: str = "",
        filter: Filter | None = None,  # noqa: A002  # the field's word
        limit: int = 10,
        timeout: float | None = None,
    ) -> Counts:
        """Count matching passages by the values of 1 to 16 fields of keywords, whole numbers or booleans.

        `limit` is the most values of each field, up to 1,000; the most frequent ones come first.
        """
        request = fill(
            search_pb2.CountByFieldRequest(), collection=collection, fields=fields, filter=filter, limit=limit
        )
        return Counts.from_proto(await self._call(self._searching.CountByField, request, timeout))

    async def index(
        self,
        documents: Sequence[Document],
        *,
        collection: str = "",
        chunking: Chunking | None = None,
        timeout: float | None = None,
    ) -> Indexed:
        """Store 1 to 512 documents, all of them or none.

        A document with the same id is replaced, and chunks that it has no more are deleted. With `chunking`, documents
        that are too long for one vector are cut; without, their end is found by words alone. A collection that does not
        exist is made. Raises SluiceError; its `field` names the wrong document, as in `documents[3].metadata.year`.
        """
        request = fill(
            documents_pb2.IndexDocumentsRequest(), collection=collection, documents=documents, chunking=chunking
        )
        if timeout is None:
            timeout = self._index_timeout * indexing.share_of_a_batch(documents)
        return Indexed.from_proto(await self._call(self._documents.IndexDocuments, request, timeout))

    async def index_all(
        self,
        documents: Iterable[DocumentT] | AsyncIterable[DocumentT],
        *,
        collection: str = "",
        chunking: Chunking | None = None,
        batch_size: int = 128,
        concurrency: int = 4,
        on_progress: Callable[[Sequence[DocumentT], Indexed], None] | None = None,
        on_rejected: Callable[[DocumentT, SluiceError], None] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Store any number of documents in batches, and return their number.

        Holds no more than a few batches in memory. A gateway that is down or busy (UNAVAILABLE, RESOURCE_EXHAUSTED
        with a time to come back) is asked again, up to 8 times a batch, no earlier than it wishes.

            stored = await client.index_all(
                (Document(row.key, row.name, row.text) for row in rows),
                on_progress=lambda batch, indexed: print(f"up to {batch[-1].id}"),
            )

        Args:
            documents: A plain iterable is read in a worker thread; an asynchronous one in the event loop.
            collection: The collection to store in; the gateway's default if empty.
            chunking: Lengths at which long documents are cut; None stores them whole.
            batch_size: Documents a call, 1 to 512; fewer where they are long.
            concurrency: Batches under way at once.
            on_progress: Called with every batch that is stored, and its outcome.
            on_rejected: Called with every document that the gateway refuses, and the error; the others are stored. If
                not given, the first such document ends it all.
            timeout: Deadline of each call in seconds.

        Raises:
            NotStored: The first batch that cannot be stored, with its documents.
        """
        return await indexing.index_all(
            partial(self.index, collection=collection, chunking=chunking, timeout=timeout),
            documents,
            batch_size=batch_size,
            concurrency=concurrency,
            on_progress=on_progress,
            on_rejected=on_rejected,
        )

    async def delete(self, ids: Sequence[str], *, collection: str = "", timeout: float | None = None) -> int:
        """Delete 1 to 1000 documents by id, and return how many existed."""
        request = fill(documents_pb2.DeleteDocumentsRequest(), collection=collection, ids=ids)
        return (await self._call(self._documents.DeleteDocuments, request, timeout)).deleted_count

    async def get_documents(
        self, ids: Sequence[str], *, collection: str = "", timeout: float | None = None
    ) -> FoundDocuments:
        """Read 1 to 100 documents by id; in several calls where one message has no room for them."""
        found = documents_pb2.GetDocumentsResponse(remaining_ids=ids)
        asked = False
        while found.remaining_ids or not asked:
            request = fill(documents_pb2.GetDocumentsRequest(), collection=collection, ids=list(found.remaining_ids))
            reply = await self._call(self._documents.GetDocuments, request, timeout)
            asked = True
            del found.remaining_ids[:]
            found.MergeFrom(reply)
        return FoundDocuments.from_proto(found)

    async def list_documents(
        self,
        *,
        collection: str = "",
        filter: Filter | None = None,  # noqa: A002  # the field's word
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[StoredDocument]:
        """Iterate over all documents, or those that match a filter.

        The order is the store's own. A document that is written at the same time may be missing, or appear as it was.
        """
        request = fill(documents_pb2.ListDocumentsRequest(), collection=collection, filter=filter, page_size=page_size)
        async for reply in self._pages(self._documents.ListDocuments, request, timeout):
            for document in reply.documents:
                yield StoredDocument.from_proto(document)

    async def config(self, collection: str = "", *, timeout: float | None = None) -> Config:
        """Describe the gateway: default flags, stages with their models, and a collection."""
        request = fill(status_pb2.GetConfigRequest(), collection=collection)
        stub = self._stub(status_pb2_grpc.StatusServiceStub)
        return Config.from_proto(await self._call(stub.GetConfig, request, timeout))

    async def list_collections(
        self, collection: str = "", *, timeout: float | None = None
    ) -> AsyncIterator[ListedVersion]:
        """Iterate over the versions of all collections, or of one, oldest first."""
        request = fill(collections_pb2.ListCollectionsRequest(), collection=collection)
        async for reply in self._pages(self._collections.ListCollections, request, timeout):
            for version in reply.versions:
                yield ListedVersion.from_proto(version)

    async def create_collection(
        self,
        collection: str,
        *,
        model: str = "",
        language: str = "",
        layout: Layout | None = None,
        token_vectors: bool | None = None,
        timeout: float | None = None,
    ) -> CollectionVersion:
        """Create an empty collection for a model, by default the first embedder's, and a language of its words.

        A language gives stems and stop words, as "german"; "none" takes words as written. What `layout` leaves out is
        as the retriever's settings say. `token_vectors` are for reranking by late interaction; None leaves them to the
        gateway's TOKEN_VECTORS.
        Raises SluiceError, ALREADY_EXISTS for a name that is taken.
        """
        request = fill(
            collections_pb2.CreateCollectionRequest(),
            collection=collection,
            model=model,
            language=language,
            layout=layout,
            token_vectors=token_vectors,
        )
        reply = await self._call(self._collections.CreateCollection, request, self._long(timeout))
        return CollectionVersion.from_proto(reply.live)

    async def tune(self, layout: Layout, *, collection: str = "", timeout: float | None = None) -> CollectionVersion:
        """Change how a collection is kept and searched, while it is; return its version as it is then.

        Raises SluiceError, LAYOUT_FIXED for what only a new version can have.
        """
        request = fill(collections_pb2.TuneCollectionRequest(), collection=collection, layout=layout)
        reply = await self._call(self._collections.TuneCollection, request, self._long(timeout))
        return CollectionVersion.from_proto(reply.version)

    async def delete_collection(self, collection: str, *, timeout: float | None = None) -> Sequence[str]:
        """Delete a collection for good, and return its versions. Its snapshots stay."""
        request = fill(collections_pb2.DeleteCollectionRequest(), collection=collection)
        return tuple((await self._call(self._collections.DeleteCollection, request, self._long(timeout))).versions)

    async def reindex(
        self,
        model: str = "",
        *,
        collection: str = "",
        token_vectors: bool | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[ReindexProgress]:
        """Build a version by another model, or with or without token vectors, and switch to it, in steps.

        After a stop in the middle, a new call goes on with what is done already. The last step is SWITCHED, or has a
        check that failed. A gateway that is down or busy is asked again, as by `index_all`.

            async for step in client.reindex("all-mpnet-base-v2"):
                print(step.phase, step.done_count, "of", step.total_count)

        Args:
            model: Short or whole name; one of the gateway's embedders has to serve it. Empty keeps the live version's,
                and its vectors.
            collection: The gateway's default if empty.
            token_vectors: True for a version with token vectors, for reranking by late interaction, False for one
                without; None keeps it as it is.
            timeout: Deadline of each step in seconds.

        Raises:
            SluiceError: A step failed; the live version is untouched.
        """
        request = fill(
            collections_pb2.ReindexCollectionRequest(),
            collection=collection,
            model=model,
            token_vectors=token_vectors,
        )
        part = partial(self._call, self._collections.ReindexCollection, request, self._long(timeout))
        while True:
            reply = await indexing.patiently(part)
            yield ReindexProgress.from_proto(reply)
            if not reply.next_cursor:
                return
            request.cursor = reply.next_cursor

    async def verify(
        self, version: str = "", *, collection: str = "", sample_size: int | None = None, timeout: float | None = None
    ) -> Verified:
        """Check a version, by default the live one."""
        request = fill(
            collections_pb2.VerifyCollectionRequest(), collection=collection, version=version, sample_size=sample_size
        )
        reply = await self._call(self._collections.VerifyCollection, request, self._long(timeout))
        return Verified.from_proto(reply)

    async def rollback(self, version: str = "", *, collection: str = "", timeout: float | None = None) -> Switched:
        """Make a ready version live, by default the one before.

        Documents that were stored or deleted since the switch are so only in the version that is left.
        """
        request = fill(collections_pb2.RollbackCollectionRequest(), collection=collection, version=version)
        return Switched.from_proto(await self._call(self._collections.RollbackCollection, request, self._long(timeout)))

    async def delete_version(self, version: str, *, timeout: float | None = None) -> None:
        """Delete a version that is not live, for good."""
        request = fill(collections_pb2.DeleteVersionRequest(), version=version)
        await self._call(self._collections.DeleteVersion, request, self._long(timeout))

    async def create_snapshot(
        self,
        collection: str = "",
        *,
        on_progress: Callable[[SnapshotProgress], None] | None = None,
        timeout: float = _SNAPSHOT_SECONDS,
    ) -> Snapshot:
        """Keep a copy of the live version, or of a named one."""
        request = fill(collections_pb2.StreamCreateSnapshotRequest(), collection=collection)
        last = await self._steps(self._collections.StreamCreateSnapshot, request, on_progress, timeout)
        return Snapshot.from_proto(last.snapshot)

    async def list_snapshots(self, collection: str = "", *, timeout: float | None = None) -> AsyncIterator[Snapshot]:
        """Iterate over the copies of all versions of a collection, newest first."""
        request = fill(collections_pb2.ListSnapshotsRequest(), collection=collection)
        async for reply in self._pages(self._collections.ListSnapshots, request, timeout):
            for snapshot in reply.snapshots:
                yield Snapshot.from_proto(snapshot)

    async def restore_snapshot(
        self,
        name: str,
        *,
        collection: str = "",
        shards: int = 0,
        on_progress: Callable[[SnapshotProgress], None] | None = None,
        timeout: float = _SNAPSHOT_SECONDS,
    ) -> Switched:
        """Make a new version from a copy, and make it live; in a cluster, with another number of shards if given."""
        request = fill(
            collections_pb2.StreamRestoreSnapshotRequest(), collection=collection, snapshot=name, shards=shards
        )
        last = await self._steps(self._collections.StreamRestoreSnapshot, request, on_progress, timeout)
        return Switched.from_proto(last)

    async def delete_snapshot(self, name: str, *, collection: str = "", timeout: float | None = None) -> None:
        """Delete a copy, for good."""
        request = fill(collections_pb2.DeleteSnapshotRequest(), collection=collection, snapshot=name)
        await self._call(self._collections.DeleteSnapshot, request, self._long(timeout))

    async def _steps(
        self,
        method: Any,
        request: Message,
        on_progress: Callable[[SnapshotProgress], None] | None,
        timeout: float,  # of the call, for the server too
    ) -> Any:
        """Return the last message of a stream, and tell the progress of each."""
        last: Any = None
        async with aclosing(self._stream(method, request, timeout)) as steps:
            async for last in steps:
                if on_progress is not None:
                    on_progress(SnapshotProgress.from_proto(last.progress))
        return last

    def _long(self, timeout: float | None) -> float:
        return self._index_timeout if timeout is None else timeout

    @property
    def _searching(self) -> search_pb2_grpc.SearchServiceStub:
        return self._stub(search_pb2_grpc.SearchServiceStub)

    @property
    def _documents(self) -> documents_pb2_grpc.DocumentServiceStub:
        return self._stub(documents_pb2_grpc.DocumentServiceStub)

    @property
    def _collections(self) -> collections_pb2_grpc.CollectionServiceStub:
        return self._stub(collections_pb2_grpc.CollectionServiceStub)
