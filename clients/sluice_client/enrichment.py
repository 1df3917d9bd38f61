"""Enrichment: keys by which passages are related, and what documents say of their relations."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sluice.gateway.v1 import collections_pb2, collections_pb2_grpc, documents_pb2, documents_pb2_grpc
from sluice.type.v1 import relation_pb2
from sluice_client.channel import Caller
from sluice_client.documents import Relations
from sluice_client.messages import Received, fill

# The longest that a server takes: all passages are gone through.
_ENRICHING_SECONDS = 3600.0
_RELATING_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class EnrichmentProgress(Received, proto=relation_pb2.EnrichmentProgress):
    """Progress of an enrichment."""

    done_count: int
    """Passages gone through so far."""
    total_count: int
    """Passages to go through, about."""
    changed_count: int
    """Passages that were given keys by this call."""


class KeyConcern(enum.StrEnum):
    """Reason to look at a key."""

    COMMON = "common"
    """More than 5 % of all passages mention it."""
    LONG = "long"
    """It has more than 60 characters."""
    TITLE = "title"
    """More documents have it as a title than a key may have to lead somewhere."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KeyCount(Received, proto=relation_pb2.KeyCount):
    """A name by which passages are related."""

    key: str
    """In lower case and without accents."""
    mention_count: int
    """Passages that mention it."""
    title_count: int
    """Documents that are about it."""
    concern: KeyConcern | None = None
    """None where it is no more than frequent."""


@dataclass(frozen=True, slots=True)
class EnrichmentReport(Received, proto=relation_pb2.EnrichmentReport):
    """Findings about the keys of a version. In very large collections, counts are a little too high."""

    passage_count: int
    keys_per_passage: float
    """Mean number: of what a passage is about, what it mentions, and what it links to."""
    nameless_count: int
    """Passages that mention no name."""
    capped_count: int
    """Passages with more names than are kept."""
    leading_share: float
    """Share of what passages mention, beside their own titles, that another passage is about; 0 to 1."""
    frequent_key_count: int
    """Names that too many passages mention to lead anywhere."""
    frequent_share: float
    """Share of what passages mention, beside their own titles, that are such names; 0 to 1."""
    most_holders: int
    """Passages that may have a key; one that more have leads nowhere."""
    frequent_keys: Sequence[KeyCount]
    """The most frequent of these names, most frequent first."""
    suspicious_keys: Sequence[KeyCount]
    """Names to look at, at most 20 of each concern."""


@dataclass(frozen=True, slots=True)
class Enriched(Received, proto=collections_pb2.EnrichCollectionResponse):
    """Outcome of an enrichment."""

    version: str
    progress: EnrichmentProgress
    report: EnrichmentReport | None = None
    """None unless it was asked for."""


@dataclass(frozen=True, slots=True)
class Related(Received, proto=documents_pb2.RelateDocumentsResponse):
    """Outcome of relating documents."""

    changed_count: int
    """Passages that were written."""
    missing_ids: Sequence[str]
    """Ids of documents that do not exist."""


class Enriching(Caller):
    """A caller that has collections enriched."""

    async def enrich(
        self,
        collection: str = "",
        *,
        report: bool = False,
        on_progress: Callable[[EnrichmentProgress], None] | None = None,
        timeout: float = _ENRICHING_SECONDS,
    ) -> Enriched:
        """Give the passages of a collection the keys of their relations, which hops need, and perhaps report on them.

        After a stop in the middle, a new call goes on. A collection that has keys is gone through for a report alone.
        """
        request = fill(collections_pb2.EnrichCollectionRequest(), collection=collection, report=report)
        stub = self._stub(collections_pb2_grpc.CollectionServiceStub)
        last: Any = None
        async with aclosing(self._stream(stub.EnrichCollection, request, timeout)) as steps:
            async for last in steps:
                if on_progress is not None:
                    on_progress(EnrichmentProgress.from_proto(last.progress))
        return Enriched.from_proto(last)

    async def relate(
        self, documents: Mapping[str, Relations], *, collection: str = "", timeout: float = _RELATING_SECONDS
    ) -> Related:
        """Replace what 1 to 100 stored documents say of their relations, by id; nothing is embedded for it."""
        said = [
            fill(documents_pb2.RelatedDocument(), f"documents[{place}]", id=one, relations=relations)
            for place, (one, relations) in enumerate(documents.items())
        ]
        request = documents_pb2.RelateDocumentsRequest(collection=collection, documents=said)
        stub = self._stub(documents_pb2_grpc.DocumentServiceStub)
        return Related.from_proto(await self._call(stub.RelateDocuments, request, timeout))
