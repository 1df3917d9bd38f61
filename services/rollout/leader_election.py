"""Leader election of the control plane: one process is active, the others wait to take over.

All writes go through one thread, one after the other; reads have theirs. Gateways that watch are told of a new snapshot
when it is durable, and of the lease in between, as long as this process is active.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from services.chassis import logs
from services.chassis.errors import SluiceError, StartupError, Unavailable
from services.rollout.control import Control
from services.rollout.snapshots import SealedSnapshot
from services.rollout.storage.database import Database
from services.rollout.storage.records import Records

T = TypeVar("T")
_TAKE_OVER_SECONDS = 0.5

_log = logs.get_logger("rollout")


class Watcher(Protocol):
    """Receiver of changes of the lead."""

    def active(self, snapshot: SealedSnapshot | None) -> None:
        """Take the newest snapshot of a replica that leads; None for one that does not."""


class LeaderElection:
    """Lead if possible, decide while leading, and run transactions.

    `tick_seconds` is how often it decides, and `renewal_seconds` how often watchers hear that their lease goes on.
    """

    def __init__(
        self,
        database: Database,
        control: Control,
        watcher: Watcher,
        *,
        tick_seconds: float,
        renewal_seconds: float,
    ) -> None:
        self._database = database
        self._control = control
        self._tick_seconds = tick_seconds
        self._renewal_seconds = renewal_seconds
        self._watcher = watcher
        self._writer = ThreadPoolExecutor(1, "rollout-writer")
        self._snapshot: SealedSnapshot | None = None
        self._changed = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = False
        self._problem: str | None = "this replica has not looked at its database yet"

    @property
    def problem(self) -> str | None:
        """Reason for not leading now, or None."""
        return self._problem

    async def lead(self) -> None:
        """Run the leader loop. Raises StartupError where leading is impossible."""
        while True:
            if self._snapshot is None:
                await asyncio.sleep(_TAKE_OVER_SECONDS)
                await self.try_to_lead()
                continue
            try:
                await self.write(self._control.tick)
            except SluiceError as error:
                _log.warning("could not decide", problem=error.message)
            except Exception:
                # An arithmetic error in one ramp must not keep the others from being decided.
                _log.exception("could not decide")
            try:
                async with asyncio.timeout(self._tick_seconds):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()

    async def try_to_lead(self) -> None:
        """Try to become the active replica."""
        if self._stopping:
            return
        try:
            if not await self._in_writer(self._database.lead):
                self._stand_by("this replica is a standby: another one is active")
                return
            self._snapshot = await self._in_writer(self._begin)
        except StartupError:
            raise
        except SluiceError as error:
            self._stand_by(error.message)
            return
        self._watcher.active(self._snapshot)
        self._problem = None
        _log.info("active", snapshot_version=self._snapshot.version)

    async def write(self, work: Callable[[Records], T]) -> T:
        """Run work in a transaction that is durable when this returns.

        Raises Unavailable, reason STANDBY, where another replica is active, and DATABASE_DOWN where none can be.
        """
        if self._snapshot is None:
            raise Unavailable(self._problem or "", reason="STANDBY", retry_after=_TAKE_OVER_SECONDS)
        try:
            result, newest = await self._in_writer(lambda: self._transact(work))
        except Unavailable as error:
            self._stand_by(error.message)
            raise
        if self._snapshot is not None and newest.version > self._snapshot.version:
            self._snapshot = newest
            self._watcher.active(newest)
            self._tell()
        return result

    async def read(self, work: Callable[[Records], T]) -> T:
        """Run a reading transaction; standbys can do so, too."""

        def read() -> T:
            with self._database.reading() as records:
                return work(records)

        return await asyncio.to_thread(read)

    def hurry(self) -> None:
        """Ask for a decision soon: there is new evidence."""
        self._hurry.set()

    async def watch(self) -> AsyncIterator[SealedSnapshot]:
        """Yield the newest snapshot, again with each renewal of leases, and each new one at once.

        Ends with Unavailable when this replica is not, or no longer, the active one.
        """
        while self._snapshot is not None:
            changed = self._changed
            yield self._snapshot
            try:
                async with asyncio.timeout(self._renewal_seconds):
                    await changed.wait()
            except TimeoutError:
                pass
        raise Unavailable(self._problem or "", reason="STANDBY", retry_after=_TAKE_OVER_SECONDS)

    def end_watches(self) -> None:
        """End all watches, so that gateways go to another replica."""
        self._stopping = True
        self._stand_by("this replica stops")

    async def close(self) -> None:
        """Give up the lead."""
        self.end_watches()
        await self._in_writer(self._database.close)
        self._writer.shutdown()

    def _begin(self) -> SealedSnapshot:
        _, newest = self._transact(self._control.take_over)
        return newest

    def _transact(self, work: Callable[[Records], T]) -> tuple[T, SealedSnapshot]:
        with self._database.writing() as records:
            result = work(records)
            newest = records.newest_snapshot()
        if newest is None:
            raise RuntimeError("there is a snapshot from the moment at which a replica takes over")
        return result, newest

    def _stand_by(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("not active", problem=problem)
        self._problem = problem
        self._watcher.active(None)
        if self._snapshot is not None:
            self._snapshot = None
            self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)
