"""Client of the rollout service: snapshots in, acknowledgements and evidence out.

Each of the tasks lives as long as the gateway, and none is ever waited for by a request. The service may be away, come
back, or talk nonsense: what was good last holds, on disk, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.chassis import logs
from services.chassis.client import StageChannel
from services.chassis.errors import SluiceError, kind_of
from services.chassis.timing import deadline_in, in_background
from services.gateway.metrics import GatewayMetrics
from services.gateway.rollout.evidence import ArmTotals, lost_with
from services.gateway.rollout.exposure import Exposure
from services.gateway.rollout.local_overrides import OverridesFile
from services.gateway.rollout.snapshot import Refused, SnapshotFile, serve
from services.gateway.search.flags import Features
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc

_log = logs.get_logger("rollout")

# A renewal comes every second. After this time without one the stream is opened again.
QUIET_SECONDS = 4.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 1.0
_CALL_SECONDS = 2.0
_LOOK_SECONDS = 0.25


def name_of_this_process() -> str:
    """Name that is unique among replicas: host name and process number."""
    return f"{socket.gethostname()}-{os.getpid()}"


class RolloutClient:
    """Keep an exposure up to date with the rollout service, and report its evidence."""

    service = "sluice.rollout.v1.SnapshotService"

    def __init__(
        self,
        channel: StageChannel,
        exposure: Exposure,
        *,
        defaults: Features,
        gateway: str,
        file: SnapshotFile,
        report_seconds: float,
        metrics: GatewayMetrics,
    ) -> None:
        self._channel = channel
        self._stub = rollout_pb2_grpc.SnapshotServiceStub(channel.channel)
        self._exposure = exposure
        self._defaults = defaults
        self._gateway = gateway
        self._file = file
        self._report_seconds = report_seconds
        self._metrics = metrics
        self._to_acknowledge = asyncio.Event()
        self._to_save = asyncio.Event()
        self._refused = ""
        self._unsent: pb.ReportEvidenceRequest | None = None
        self._unsent_totals: Sequence[ArmTotals] = ()
        self._incarnation = secrets.randbits(64)
        self._sequence = 0

    async def restore(self) -> None:
        """Take the snapshot served before the last stop. Its ramps wait for the service to confirm it."""
        try:
            served = await asyncio.to_thread(self._file.load, self._defaults)
        except Refused as refused:
            self._metrics.snapshots_refused.labels(refused.reason).inc()
            _log.error("snapshot on disk ignored", path=str(self._file.path), problem=str(refused))
            return
        if served is not None:
            self._exposure.take(served)
            _log.info("snapshot from disk", version=served.version, path=str(self._file.path))

    def acknowledge_soon(self) -> None:
        """Schedule an acknowledgement of the new snapshot or kill."""
        self._to_acknowledge.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch, acknowledge and report in the background, and report once more at the end."""
        self._metrics.snapshot_age.seconds = self._exposure.silence
        works = (self._watch, self._acknowledge, self._save, self._report)
        try:
            async with in_background(*map(_keep_on, works)):
                yield
        finally:
            self._metrics.snapshot_age.seconds = None
            with contextlib.suppress(SluiceError):
                await self._send_report()

    async def _watch(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        heard: bool | None = None
        while True:
            problem = "it has something newer, and did not send it"
            try:
                async for in_step in self._responses():
                    if in_step:
                        if not heard:
                            _log.info("rollout service heard", version=self._version)
                        heard, pause = True, _FIRST_PAUSE_SECONDS
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name}: {error.details()}"
            except TimeoutError:
                problem = f"it said nothing for {QUIET_SECONDS:.0f} s"
            if heard is not False:
                _log.warning(
                    "rollout service not heard; what ramps falls back when its lease ends",
                    problem=problem,
                    version=self._version,
                )
                heard = False
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _responses(self) -> AsyncIterator[bool]:
        """Read one stream to its end; yield for each message True if its newest snapshot was dealt with."""
        served = self._exposure.served
        request = pb.WatchSnapshotRequest(gateway=self._gateway, content_hash=served.content_hash if served else "")
        stream: Any = self._stub.WatchSnapshot(request)
        freezes = self._exposure.freezes
        try:
            # Another replica of the service, or one that was restarted, needs the acknowledgement again.
            self.acknowledge_soon()
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    response = await stream.read()
                if response is grpc.aio.EOF:
                    return
                in_step = self._hear(response, freezes)
                yield in_step
                # Messages that waited through a freeze may be older than a kill: a new stream has the newest.
                if not in_step or self._exposure.freezes != freezes:
                    return
        finally:
            stream.cancel()

    def _hear(self, response: pb.WatchSnapshotResponse, freezes: int) -> bool:
        """Take a message; False where another stream may bring a newer snapshot."""
        if response.HasField("snapshot"):
            self._take(response.snapshot)
        newest = response.content_hash or response.snapshot.content_hash
        served = self._exposure.served
        if served is not None and newest == served.content_hash:
            if response.version > served.version:
                # Nothing has changed but the number, and the service waits for its acknowledgement.
                again = pb.RolloutSnapshot()
                again.CopyFrom(served.snapshot)
                again.version = response.version
                self._take(again)
            self._exposure.confirm(freezes)
            return True
        return newest == self._refused

    def _take(self, snapshot: pb.RolloutSnapshot) -> None:
        before = self._exposure.served
        try:
            served = serve(snapshot, self._defaults, before=before)
        except Refused as refused:
            if self._refused != snapshot.content_hash:
                self._metrics.snapshots_refused.labels(refused.reason).inc()
                _log.error("snapshot refused", version=snapshot.version, problem=str(refused))
            self._refused = snapshot.content_hash
            return
        self._refused = ""
        if before is not None and served.version < before.version:
            _log.warning("the rollout service's store was reset", version=served.version, before=before.version)
        self._exposure.take(served)
        self.acknowledge_soon()
        self._to_save.set()
        _log.info("snapshot served", version=served.version, features=len(served.snapshot.features))

    async def _save(self) -> None:
        """Save snapshots in a task of their own: a slow disk must not delay a kill."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            served = self._exposure.served
            if served is None:
                continue
            try:
                await asyncio.to_thread(self._file.save, served)
            except OSError as error:
                _log.error("snapshot not saved", path=str(self._file.path), problem=error.strerror or str(error))

    async def _acknowledge(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            served = self._exposure.served
            if served is None:
                continue
            request = pb.AcknowledgeSnapshotRequest(
                gateway=self._gateway,
                version=served.version,
                content_hash=served.content_hash,
                quarantined=[
                    pb.QuarantinedFeature(name=entry.name, reason=entry.reason) for entry in served.quarantined
                ],
                locally_killed=self._exposure.local.killed,
            )
            try:
                await self._channel.call(self._stub.AcknowledgeSnapshot, request, deadline=deadline_in(_CALL_SECONDS))
                pause = _FIRST_PAUSE_SECONDS
            except SluiceError:
                # The stream's end is logged already; the acknowledgement is only repeated.
                self._to_acknowledge.set()
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # jitter
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._report_seconds * random.uniform(0.9, 1.1))  # noqa: S311  # jitter
            try:
                await self._send_report()
            except SluiceError as error:
                _log.debug("evidence not reported", problem=error.message)

    async def _send_report(self) -> None:
        """Send the evidence that waits, even if there is none: silence would mean a gateway that is cut off.

        What fails in a way that may pass is sent again as it was, with the same number.
        """
        if self._unsent is None:
            self._unsent_totals = self._exposure.evidence.take()
            self._sequence += 1
            self._unsent = pb.ReportEvidenceRequest(
                gateway=self._gateway,
                incarnation=self._incarnation,
                sequence=self._sequence,
                arms=[totals.to_proto() for totals in self._unsent_totals],
            )
        try:
            await self._channel.call(self._stub.ReportEvidence, self._unsent, deadline=deadline_in(_CALL_SECONDS))
        except SluiceError as error:
            self._metrics.evidence_reports.labels("failed").inc()
            if kind_of(error).retryable:
                raise
            lost = lost_with(self._unsent_totals)
            self._metrics.evidence_lost.labels("requests").inc(lost.requests)
            self._metrics.evidence_lost.labels("units").inc(lost.units)
            _log.error("evidence refused", problem=error.message, code=kind_of(error).code)
        else:
            self._metrics.evidence_reports.labels("accepted").inc()
        self._unsent, self._unsent_totals = None, ()

    @property
    def _version(self) -> int:
        return self._exposure.served.version if self._exposure.served else 0


@asynccontextmanager
async def housekeeping(
    file: OverridesFile | None, exposure: Exposure, client: RolloutClient | None
) -> AsyncIterator[None]:
    """Apply the file of local overrides, and count decisions, in the background."""

    async def work() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            exposure.beat()
            exposure.count()
            if file is not None:
                await look_once(file, exposure, client)

    async with in_background(_keep_on(work)):
        yield


async def look_once(file: OverridesFile, exposure: Exposure, client: RolloutClient | None) -> None:
    """Apply the file of local overrides as it is now."""
    seen = await asyncio.to_thread(file.look)
    if seen is None:
        return
    overrides, problems = seen
    for problem in problems:
        _log.error("local overrides ignored, but for kills", path=str(file.path), problem=problem)
    exposure.override(overrides, file.problem_count)
    if client is not None:
        client.acknowledge_soon()
    _log.info("local overrides", killed=list(overrides.killed), percentages=dict(overrides.percentages))


async def _keep_on(work: Callable[[], Awaitable[None]]) -> None:
    """Run endless work, and start it again after an unexpected error: the next snapshot may be a kill."""
    while True:
        try:
            await work()
        except Exception as fault:
            _log.error("unexpected error", exc_info=fault)
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
