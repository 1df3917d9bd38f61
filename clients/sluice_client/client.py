"""The client: one channel to one gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import grpc
from google.protobuf.message import Message

from sluice.gateway.v1 import gateway_pb2 as pb
from sluice.gateway.v1 import gateway_pb2_grpc
from sluice_client import indexing, wire
from sluice_client.answers import Answer, Features, Policies, Result
from sluice_client.channel import ReplyT, call, open_channel
from sluice_client.comparisons import Comparison
from sluice_client.configuration import Config
from sluice_client.documents import Chunking, Document, Indexed
from sluice_client.errors import SluiceError
from sluice_client.filters import Filter
from sluice_client.indexing import DocumentT
from sluice_client.tls import Tls
from sluice_client.versions import CollectionVersion, ReindexProgress, Snapshot, Switched, Verified

_SERVICE = "sluice.gateway.v1.GatewayService"


class SearchOptions(TypedDict, total=False):
    """What every page of a search shares; see `SluiceClient.search`."""

    limit: int
    collection: str
    filter: Filter | None
    user_id: str
    features: Features
    policies: Policies
    collapse_duplicates: bool
    group_by_document: bool
    timeout: float | None


class SluiceClient:
    """A gateway's caller. Made for use as `async with SluiceClient(address) as client:`, in any number of tasks.

    `timeout` is the deadline, in seconds, of every call that sets none of its own; storing has its own,
    `index_timeout`, because embedding a batch on a small machine takes its time: the more of it, the longer its text is
    beyond that of a usual batch. `tls` is for a gateway that asks for certificates; opening raises OSError where one of
    its files cannot be read.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float = 10.0,
        index_timeout: float = 120.0,
        tls: Tls | None = None,
    ) -> None:
        self.address = address
        self._tls = tls
        self._timeout = timeout
        self._index_timeout = index_timeout
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self.address, _SERVICE, self._tls)
        self._gateway = gateway_pb2_grpc.GatewayServiceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def search(  # noqa: PLR0913  # all of them keywords, as in the request
        self,
        query: str,
        *,
        limit: int = 10,
        collection: str = "",
        filter: Filter | None = None,  # noqa: A002  # the field's word
        user_id: str = "",
        features: Features = Features(),  # noqa: B008  # frozen
        policies: Policies = Policies(),  # noqa: B008  # frozen
        collapse_duplicates: bool = False,
        group_by_document: bool = False,
        page_token: str = "",
        timeout: float | None = None,
    ) -> Answer:
        """One page of answers to a question.

        Args:
            query: The question, at most 8,192 bytes.
            limit: Most results on this page, 1 to 100.
            collection: Where to search; the gateway's default if empty.
            filter: Keeps only matching documents.
            user_id: Who asks; keeps a user on one side of a rollout. Neither stored nor logged.
            features: What to switch on or off for this question.
            policies: What happens when a stage fails.
            collapse_duplicates: Lets the best of several passages that share nearly all of their words stand for them.
            group_by_document: Keeps only the best chunk of a document.
            page_token: `next_page_token` of the page before; all else must be as it was then.
            timeout: Deadline in seconds.

        Raises:
            SluiceError: The question was refused, or a required stage failed. What went wrong in other stages is in
                the answer's `stages`.
        """
        request = pb.SearchRequest(
            query=wire.sendable("query", query),
            limit=wire.sendable_number("limit", limit),
            collection=wire.sendable("collection", collection),
            filter=None if filter is None else wire.to_filter(filter),
            user_id=wire.sendable("user_id", user_id),
            features=wire.to_features(features),
            policies=wire.to_policies(policies),
            group_by_document=group_by_document,
            page_token=wire.sendable("page_token", page_token),
            collapse_duplicates=collapse_duplicates,
        )
        return wire.from_search(await self._call(self._stub.Search, request, timeout))

    async def compare(  # noqa: PLR0913  # all of them keywords, as in the request
        self,
        query: str,
        *,
        enhanced: Features = Features(),  # noqa: B008  # frozen
        feature: str = "",
        limit: int = 10,
        collection: str = "",
        filter: Filter | None = None,  # noqa: A002  # the field's word
        features: Features = Features(),  # noqa: B008  # frozen
        group_by_document: bool = False,
        persistence: float | None = None,
        timeout: float | None = None,
    ) -> Comparison:
        """Both answers to a question: as things are, and with more switched on. Counts for no rollout.

            compared = await client.compare("read a file line by line", enhanced=Features(rerank=True))
            print(compared.rank_biased_overlap, compared.enhanced_seconds - compared.standard_seconds)

        Args:
            query: The question.
            enhanced: What the enhanced answer switches; if neither this nor `feature` says anything, expansion and
                reranking on.
            feature: Name of a feature of the rollout, instead: what its users get.
            limit: Results of each answer, 1 to 100, and how deep they are compared.
            collection: Where to search; the gateway's default if empty.
            filter: Keeps only matching documents.
            features: What to switch on or off for both answers.
            group_by_document: Keeps only the best chunk of a document.
            persistence: Of the rank-biased overlap, above 0 and below 1; 0.9 if not given.
            timeout: Deadline of both answers together, in seconds.

        Raises:
            SluiceError: The question was refused, there is no such feature, or a required stage failed.
        """
        request = pb.CompareSearchRequest(
            search=pb.SearchRequest(
                query=wire.sendable("query", query),
                limit=wire.sendable_number("limit", limit),
                collection=wire.sendable("collection", collection),
                filter=None if filter is None else wire.to_filter(filter),
                features=wire.to_features(features),
                group_by_document=group_by_document,
            ),
            enhanced=wire.to_features(enhanced),
            feature=wire.sendable("feature", feature),
            persistence=persistence,
        )
        return wire.from_comparison(await self._call(self._stub.CompareSearch, request, timeout))

    async def pages(self, query: str, **options: Unpack[SearchOptions]) -> AsyncIterator[Answer]:
        """All pages of the answer to a question, each asked for when it is wanted. Takes what `search` takes."""
        token = ""
        while True:
            page = await self.search(query, page_token=token, **options)
            yield page
            token = page.next_page_token
            if not token:
                return

    async def search_all(self, query: str, **options: Unpack[SearchOptions]) -> AsyncIterator[Result]:
        """All results of a question over all pages, best first; `limit` is the size of a page.

        async for result in client.search_all("compare two files", limit=100):
            print(result.rank, result.title)
        """
        async for page in self.pages(query, **options):
            for result in page.results:
                yield result

    async def index(
        self,
        documents: Sequence[Document],
        *,
        collection: str = "",
        chunking: Chunking | None = None,
        timeout: float | None = None,
    ) -> Indexed:
        """Stores one batch of 1 to 512 documents, or replaces those with the same id: all of them or none.

        With `chunking`, documents that are too long for one vector are cut; without, their end is found by words alone.
        Chunks that a document had before and has no more are deleted.
        A collection that does not exist is made. Raises SluiceError; its `field` names the document to blame, as in
        `documents[3].metadata.year`.
        """
        request = pb.IndexDocumentsRequest(
            collection=wire.sendable("collection", collection),
            documents=[wire.to_document(f"documents[{place}]", document) for place, document in enumerate(documents)],
        )
        if chunking is not None:
            request.chunking.CopyFrom(wire.to_chunking(chunking))
        if timeout is None:
            timeout = self._index_timeout * indexing.share_of_a_batch(documents)
        reply = await self._call(self._stub.IndexDocuments, request, timeout)
        return wire.from_indexed(reply)

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
        """Stores any number of documents in batches and returns how many; a later one replaces one with the same id.

        Holds no more than a few batches in memory. A gateway that is down or busy (UNAVAILABLE, RESOURCE_EXHAUSTED
        with a time to come back) is asked again, up to 8 times a batch, no earlier than it wishes.

            stored = await client.index_all(
                (Document(row.key, row.name, row.text) for row in rows),
                on_progress=lambda batch, indexed: print(f"up to {batch[-1].id}"),
            )

        Args:
            documents: A plain iterable is read in a worker thread; an asynchronous one in the event loop.
            collection: Where to; the gateway's default if empty.
            chunking: How documents that are too long for one vector are cut; None stores them whole.
            batch_size: Documents a call, 1 to 512; fewer where they are long.
            concurrency: Batches under way at once.
            on_progress: Called with every batch that is stored, and what became of it.
            on_rejected: Called with every document that the gateway refuses, and why; the others are stored. If not
                given, the first such document ends it all.
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
        """Deletes 1 to 1000 documents by id and returns how many there were; an id that does not exist is no error."""
        request = pb.DeleteDocumentsRequest(
            collection=wire.sendable("collection", collection),
            ids=[wire.sendable(f"ids[{place}]", identity) for place, identity in enumerate(ids)],
        )
        return (await self._call(self._stub.DeleteDocuments, request, timeout)).deleted_count

    async def config(self, collection: str = "", *, timeout: float | None = None) -> Config:
        """What is on by default, which models and which index version serve, and how every stage is."""
        request = pb.GetConfigRequest(collection=wire.sendable("collection", collection))
        return wire.from_config(await self._call(self._stub.GetConfig, request, timeout))

    async def collections(self, *, timeout: float | None = None) -> list[CollectionVersion]:
        """All versions of all collections, by collection, then oldest first."""
        reply = await self._call(self._stub.ListCollections, pb.ListCollectionsRequest(), timeout)
        return [wire.from_version(version) for version in reply.versions]

    async def reindex(
        self, model: str, *, collection: str = "", timeout: float | None = None
    ) -> AsyncIterator[ReindexProgress]:
        """Builds a version by another model beside the live one and switches to it, as long as it is iterated over.

        Whoever stops in the middle, or is stopped, begins again: what is done already is passed over. The last step
        says SWITCHED, or has a check that failed. A gateway that is down or busy is asked again, as by `index_all`.

            async for step in client.reindex("all-mpnet-base-v2"):
                print(step.phase, step.done, "of", step.total)

        Args:
            model: Short or whole name; one of the gateway's embedders has to serve it.
            collection: The gateway's default if empty.
            timeout: Deadline of each step in seconds.

        Raises:
            SluiceError: What kept a step from being done; the live version is untouched.
        """
        request = pb.ReindexCollectionRequest(
            collection=wire.sendable("collection", collection), model=wire.sendable("model", model)
        )
        attempt = 1
        while True:
            try:
                reply = await self._call(self._stub.ReindexCollection, request, self._long(timeout))
            except SluiceError as error:
                if (pause := indexing.pause_before(error, attempt)) is None:
                    raise
                await asyncio.sleep(pause)
                attempt += 1
                continue
            yield wire.from_reindex(reply)
            if not reply.next_page_token:
                return
            request.page_token, attempt = reply.next_page_token, 1

    async def verify(
        self, version: str = "", *, collection: str = "", sample_size: int | None = None, timeout: float | None = None
    ) -> Verified:
        """Checks a version, by default the live one: counts, vectors computed again, and what it finds."""
        request = pb.VerifyCollectionRequest(
            collection=wire.sendable("collection", collection),
            version=wire.sendable("version", version),
            sample_size=wire.sendable_number("sample_size", sample_size),
        )
        return wire.from_verify(await self._call(self._stub.VerifyCollection, request, self._long(timeout)))

    async def rollback(self, version: str = "", *, collection: str = "", timeout: float | None = None) -> Switched:
        """Makes a ready version live, by default the one that was live before.

        What was stored or deleted since the switch is in the version that is left, not in the one gone back to.
        """
        request = pb.RollbackCollectionRequest(
            collection=wire.sendable("collection", collection), version=wire.sendable("version", version)
        )
        reply = await self._call(self._stub.RollbackCollection, request, self._long(timeout))
        return wire.from_switch(reply)

    async def drop_version(self, version: str, *, timeout: float | None = None) -> None:
        """Deletes a version that is not live, for good."""
        request = pb.DropVersionRequest(version=wire.sendable("version", version))
        await self._call(self._stub.DropVersion, request, self._long(timeout))

    async def create_snapshot(self, collection: str = "", *, timeout: float | None = None) -> Snapshot:
        """Keeps a consistent copy of the live version, or of the version that is named."""
        request = pb.CreateSnapshotRequest(collection=wire.sendable("collection", collection))
        reply = await self._call(self._stub.CreateSnapshot, request, self._long(timeout))
        return wire.from_snapshot(reply.snapshot)

    async def snapshots(self, collection: str = "", *, timeout: float | None = None) -> list[Snapshot]:
        """The copies of all versions of a collection, newest first."""
        request = pb.ListSnapshotsRequest(collection=wire.sendable("collection", collection))
        reply = await self._call(self._stub.ListSnapshots, request, timeout)
        return [wire.from_snapshot(snapshot) for snapshot in reply.snapshots]

    async def restore_snapshot(self, name: str, *, collection: str = "", timeout: float | None = None) -> Switched:
        """Makes a new version from a copy, and makes it live; the one before stays for a rollback."""
        request = pb.RestoreSnapshotRequest(
            collection=wire.sendable("collection", collection), snapshot=wire.sendable("snapshot", name)
        )
        reply = await self._call(self._stub.RestoreSnapshot, request, self._long(timeout))
        return wire.from_switch(reply)

    async def delete_snapshot(self, name: str, *, collection: str = "", timeout: float | None = None) -> None:
        """Deletes a copy, for good."""
        request = pb.DeleteSnapshotRequest(
            collection=wire.sendable("collection", collection), snapshot=wire.sendable("snapshot", name)
        )
        await self._call(self._stub.DeleteSnapshot, request, self._long(timeout))

    def _long(self, timeout: float | None) -> float:
        return self._index_timeout if timeout is None else timeout

    @property
    def _stub(self) -> gateway_pb2_grpc.GatewayServiceStub:
        if self._channel is None:
            raise RuntimeError("the client is not open; use it as `async with SluiceClient(address) as client:`")
        return self._gateway

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT], request: Message, timeout: float | None
    ) -> ReplyT:
        deadline = self._timeout if timeout is None else timeout
        return await call(method, request, timeout=deadline, server=f"the gateway at {self.address}")
