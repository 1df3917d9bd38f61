"""Copies of collections from one gateway to another, while they are read and written.

Both sides list ids and revisions in the same order. What the target lacks, has otherwise or has in excess is read from
the source, with its vectors, and written, each passage only if the target has it as it was listed. That is repeated
until nothing differs: so a copy that was broken off goes on, and one that ends was compared passage by passage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import grpc

from sluice.gateway.v1 import transfer_pb2, transfer_pb2_grpc
from sluice.type.v1 import passage_pb2
from sluice_client.channel import Caller, Credentials
from sluice_client.errors import SluiceError
from sluice_client.indexing import patiently
from sluice_client.messages import fill
from sluice_client.versions import CollectionVersion, Switched

KEYS_A_PAGE = 2048
MOST_ROUNDS = 20
FOLLOW_SECONDS = 1.0

_WRITES_AT_ONCE = 256
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 5.0


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """Progress of a copy."""

    version: str
    """The version that is being filled at the target."""
    round: int
    """Number of this comparison, from 1."""
    done_count: int
    """Passages of the source compared in this round."""
    total_count: int
    """Passages to compare, about."""
    copied_count: int
    """Passages copied in all rounds."""
    removed_count: int
    """Passages removed at the target in all rounds."""
    equal: bool = False
    """True once a whole round has found no difference."""
    switched: Switched | None = None
    """The target's live version and the one before, in the step that makes it live."""


class AsyncTransferClient(Caller):
    """A caller of a gateway's TransferService, used as `async with AsyncTransferClient(address) as place:`."""

    def __init__(self, address: str, *, timeout: float = 120.0, **credentials: Unpack[Credentials]) -> None:
        super().__init__(
            address, server="the gateway", service="sluice.gateway.v1.TransferService", timeout=timeout, **credentials
        )

    async def describe(self, collection: str) -> transfer_pb2.DescribeVersionResponse:
        """Describe the live version of a collection, or a version."""
        request = fill(transfer_pb2.DescribeVersionRequest(), collection=collection)
        described: transfer_pb2.DescribeVersionResponse = await self._patiently("DescribeVersion", request)
        return described

    async def keys(self, version: str) -> AsyncGenerator[passage_pb2.PassageKey, None]:
        """Iterate over ids and revisions in the order of their points."""
        request = fill(transfer_pb2.ListKeysRequest(), version=version, limit=KEYS_A_PAGE)
        while True:
            page = await self._patiently("ListKeys", request)
            for key in page.keys:
                yield key
            if not page.next_cursor:
                return
            request.cursor = page.next_cursor

    async def read(self, version: str, ids: Sequence[str]) -> tuple[Sequence[passage_pb2.PassageRecord], int]:
        """Read the first of these passages that exist; return them, and the number of ids that were looked for."""
        page = await self._patiently("ReadRecords", fill(transfer_pb2.ReadRecordsRequest(), version=version, ids=ids))
        return page.records, page.read_count

    async def begin(self, collection: str, source_version: str, notes: str) -> CollectionVersion:
        """Create a version to fill, or go on with one."""
        request = fill(
            transfer_pb2.BeginTransferRequest(), collection=collection, source_version=source_version, notes=notes
        )
        return CollectionVersion.from_proto((await self._patiently("BeginTransfer", request)).version)

    async def write(
        self,
        version: str,
        fingerprints: tuple[str, str],
        records: Sequence[tuple[passage_pb2.PassageRecord, str]],
        removals: Sequence[passage_pb2.PassageKey],
    ) -> None:
        """Write passages, each if it still has this revision, and remove others.

        The fingerprints are those of the models of the vectors and of the token vectors; the latter may be empty.
        """
        await self._patiently(
            "WriteRecords",
            transfer_pb2.WriteRecordsRequest(
                version=version,
                model_fingerprint=fingerprints[0],
                token_model_fingerprint=fingerprints[1],
                writes=[
                    transfer_pb2.RecordWrite(record=record, replaced_revision=revision) for record, revision in records
                ],
                removals=removals,
            ),
        )

    async def complete(self, version: str, passages: int) -> Switched:
        """Make a version live."""
        request = fill(transfer_pb2.CompleteTransferRequest(), version=version, passage_count=passages)
        return Switched.from_proto(await self._patiently("CompleteTransfer", request))

    async def _patiently(self, method: str, request: Any) -> Any:
        """Send a request, again for a while if the gateway is down or busy: all of them bear being repeated."""
        call = getattr(self._stub(transfer_pb2_grpc.TransferServiceStub), method)
        return await patiently(partial(self._call, call, request))


async def copy_collection(
    source: AsyncTransferClient,
    target: AsyncTransferClient,
    collection: str = "",
    *,
    follow: bool = False,
    pause: float = FOLLOW_SECONDS,
) -> AsyncGenerator[CopyProgress, None]:
    """Copy the live version of a collection with its vectors, and make it live at the target; yield the progress.

    Both sides may be read meanwhile, and the source written; what the source does not have goes from the target's new
    version. The end is a round without a difference. With `follow` the target is made live after the second round
    and goes on following, with a pause after each round, until the iteration is closed.

    Raises:
        SluiceError: A call failed, the source was switched to another version, or it is written too fast to catch up
            (CONTENDED). The same call goes on with what was copied.
    """
    described = await source.describe(collection)
    version = described.version
    made = await target.begin(version.collection, version.version, described.notes)
    fingerprints = (version.model.fingerprint, version.token_model.fingerprint)
    copy = _Copy(source, target, version.version, made.version, fingerprints, version.passage_count)
    switched = False
    while follow or copy.round < MOST_ROUNDS:
        async with aclosing(copy.compare()) as steps:
            async for step in steps:
                yield step
        if (now := (await source.describe(version.collection)).version.version) != version.version:
            raise _ended(f"{version.collection!r} was switched to {now!r} at its origin; copy it again", "SWITCHED")
        if not switched and (copy.equal or (follow and copy.round > 1)):
            yield copy.progress(copy.seen, switched=await target.complete(made.version, copy.expected))
            switched = True
        if copy.equal and not follow:
            return
        if follow:
            await asyncio.sleep(pause)
        elif copy.round > 1:  # who writes without a break today may make one later
            await asyncio.sleep(min(_FIRST_PAUSE_SECONDS * 2**copy.round, _LONGEST_PAUSE_SECONDS))
    raise _ended(f"{version.version!r} is written faster than it can be copied; use follow", "CONTENDED")


class _Copy:
    """The state of a copy."""

    def __init__(
        self,
        source: AsyncTransferClient,
        target: AsyncTransferClient,
        origin: str,
        version: str,
        fingerprints: tuple[str, str],
        total: int,
    ) -> None:
        self._source = source
        self._target = target
        self._origin = origin
        self._version = version
        self._fingerprints = fingerprints
        self._total = total
        self._copied = 0
        self._removed = 0
        self._writes: dict[str, str] = {}
        self._removals: list[passage_pb2.PassageKey] = []
        self.round = 0
        self.seen = 0
        self.expected = 0
        self.equal = False

    def progress(self, done: int, switched: Switched | None = None) -> CopyProgress:
        """Describe how far it is."""
        total = max(done, self._total)
        return CopyProgress(self._version, self.round, done, total, self._copied, self._removed, self.equal, switched)

    async def compare(self) -> AsyncGenerator[CopyProgress, None]:
        """Go through both sides once, and copy what differs."""
        self.round += 1
        self.seen = self.expected = 0
        self.equal = True
        async with (
            aclosing(self._source.keys(self._origin)) as wanted,
            aclosing(self._target.keys(self._version)) as there,
        ):
            old = await anext(there, None)
            async for key in wanted:
                while old is not None and old.point < key.point:
                    self._removals.append(old)
                    old = await anext(there, None)
                known = ""
                if old is not None and old.point == key.point:
                    known = old.revision
                    old = await anext(there, None)
                if known != key.revision:
                    self._writes[key.id] = known
                self.seen += 1
                self.expected += 1
                if max(len(self._writes), len(self._removals)) >= _WRITES_AT_ONCE:
                    await self._flush()
                if self.seen % KEYS_A_PAGE == 0:
                    yield self.progress(self.seen)
            while old is not None:
                self._removals.append(old)
                old = await anext(there, None)
        await self._flush()
        self._total = self.seen
        yield self.progress(self.seen)

    async def _flush(self) -> None:
        """Copy what was found to differ."""
        writes, self._writes = self._writes, {}
        self.equal = self.equal and not writes and not self._removals
        ids = list(writes)
        while ids:
            records, read = await self._source.read(self._origin, ids)
            looked_for, ids = ids[:read], ids[read:]
            await self._target.write(
                self._version, self._fingerprints, [(record, writes[record.passage.id]) for record in records], []
            )
            self._copied += len(records)
            found = {record.passage.id for record in records}
            for gone in (one for one in looked_for if one not in found):  # deleted since it was listed
                self.expected -= 1
                if writes[gone]:
                    self._removals.append(passage_pb2.PassageKey(id=gone, revision=writes[gone]))
        while self._removals:
            some, self._removals = self._removals[:_WRITES_AT_ONCE], self._removals[_WRITES_AT_ONCE:]
            await self._target.write(self._version, self._fingerprints, [], some)
            self._removed += len(some)


def _ended(message: str, reason: str) -> SluiceError:
    return SluiceError(grpc.StatusCode.FAILED_PRECONDITION, reason, message)
