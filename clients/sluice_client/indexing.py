"""Indexing of any number of documents in bounded memory, with retries."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import count, islice
from typing import TypeAlias, TypeVar

import grpc

from sluice_client.documents import Document, Indexed
from sluice_client.errors import SluiceError

AnswerT = TypeVar("AnswerT")
DocumentT = TypeVar("DocumentT", bound=Document)
Store: TypeAlias = Callable[[Sequence[Document]], Awaitable[Indexed]]

# A few hundred chunks, which take seconds to embed; several calls at once still leave room in the embedder's queue.
BATCH_CHARACTERS = 100_000
# Documents of the first batch: small, so that there is progress to see, and a mistake, before much work is done.
FIRST_BATCH = 16
READ_AHEAD = 128
MAX_ATTEMPTS = 8
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 10.0
# A server that asks for a longer pause than this has a problem that a person should know of.
LONGEST_PUSHBACK_SECONDS = 300.0
_OFFENDER = re.compile(r"documents\[(\d+)\]")


class NotStored(SluiceError):
    """Failure of a batch of `index_all`; others may be stored or not.

    Storing all of it again does no harm.
    """

    def __init__(self, error: SluiceError, documents: Sequence[Document]) -> None:
        first, last = documents[0].id, documents[-1].id
        named = f"document {first!r}" if len(documents) == 1 else f"{len(documents)} documents, {first!r} to {last!r},"
        super().__init__(
            error.code,
            error.reason,
            f"{named} could not be stored: {error.message}",
            field=error.field,
            retry_after=error.retry_after,
            request_id=error.request_id,
        )
        self.documents = documents
        """The documents that are not stored, in their order; `field` counts within them."""


async def index_all(
    store: Store,
    documents: Iterable[DocumentT] | AsyncIterable[DocumentT],
    *,
    batch_size: int,
    concurrency: int,
    on_progress: Callable[[Sequence[DocumentT], Indexed], None] | None,
    on_rejected: Callable[[DocumentT, SluiceError], None] | None,
) -> int:
    """Store documents as if one after the other; see `AsyncClient.index_all`."""
    stored = 0

    async def store_batch(batch: list[DocumentT]) -> None:
        nonlocal stored
        while batch:
            try:
                indexed = await patiently(partial(store, batch))
            except SluiceError as error:
                place = _offender(error, batch)
                if on_rejected is None or place is None:
                    raise NotStored(error, batch) from None
                on_rejected(batch.pop(place), error)
            else:
                stored += indexed.indexed_count
                if on_progress is not None:
                    on_progress(batch, indexed)
                return

    in_flight: dict[asyncio.Task[None], set[str]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            async for batch in _batches(documents, batch_size):
                ids = {document.id for document in batch}
                # A document that comes again waits for the one it replaces.
                while len(in_flight) >= concurrency or any(ids & others for others in in_flight.values()):
                    done, _ = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        del in_flight[task]
                in_flight[group.create_task(store_batch(batch))] = ids
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return stored


def share_of_a_batch(documents: Sequence[Document]) -> float:
    """Length of the text, in full batches; at least 1."""
    return max(1.0, sum(_characters(document) for document in documents) / BATCH_CHARACTERS)


def _characters(document: Document) -> int:
    return len(document.title) + len(document.text)


async def _batches(
    documents: Iterable[DocumentT] | AsyncIterable[DocumentT], batch_size: int
) -> AsyncIterator[list[DocumentT]]:
    """Group documents into batches of bounded size, without duplicate ids; each is up to twice the one before."""
    most = min(batch_size, FIRST_BATCH)
    batch: list[DocumentT] = []
    ids: set[str] = set()
    characters = 0
    async for document in _each(documents):
        size = _characters(document)
        if batch and (len(batch) >= most or characters + size > BATCH_CHARACTERS or document.id in ids):
            yield batch
            batch, ids, characters = [], set(), 0
            most = min(batch_size, 2 * most)
        batch.append(document)
        ids.add(document.id)
        characters += size
    if batch:
        yield batch


async def _each(documents: Iterable[DocumentT] | AsyncIterable[DocumentT]) -> AsyncIterator[DocumentT]:
    if isinstance(documents, AsyncIterable):
        async for document in documents:
            yield document
        return
    iterator = iter(documents)
    while some := await asyncio.to_thread(lambda: list(islice(iterator, READ_AHEAD))):
        for document in some:
            yield document


async def patiently(call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
    """Make a call, again for a while if the gateway is down or busy. Raises SluiceError."""
    for attempt in count(1):
        try:
            return await call()
        except SluiceError as error:
            pause = pause_before(error, attempt)
            if pause is None:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def pause_before(error: SluiceError, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None to give up."""
    pushback = error.retry_after
    # A batch that was too large for its deadline is too large for the next one.
    late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    if not error.retryable or late or attempt >= MAX_ATTEMPTS or (pushback or 0) > LONGEST_PUSHBACK_SECONDS:
        return None
    backoff: float = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1))
    # Jitter keeps many callers from coming back at the same moment.
    return max(pushback or 0, backoff) * random.uniform(1, 1.5)  # noqa: S311  # no secret


def _offender(error: SluiceError, batch: Sequence[Document]) -> int | None:
    """Find the place of the document that an error names, if any."""
    found = _OFFENDER.match(error.field)
    place = int(found[1]) if found and error.code is grpc.StatusCode.INVALID_ARGUMENT else len(batch)
    return place if place < len(batch) else None
