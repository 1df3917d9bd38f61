"""Exposure of users to features on this gateway: the snapshot, local overrides, and leases.

Nothing here waits for anything. Whatever brings a snapshot (`rollout_client.py`) calls `take`; each request asks
`decide` once and keeps the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from services.chassis import logs
from services.chassis.errors import DeadlineExceeded, kind_of
from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.gateway.metrics import GatewayMetrics
from services.gateway.rollout.evidence import Ending, Evidence
from services.gateway.rollout.local_overrides import LocalOverrides
from services.gateway.rollout.snapshot import Served
from services.gateway.rollout.table import Decision, Kill, RolloutTable
from services.gateway.search.flags import Features
from services.gateway.search.paging import Page
from services.gateway.search.stages import Answer

_log = logs.get_logger("rollout")
_MOST_UNCOUNTED = 10_000

FROZEN_SECONDS = 1.5
"""Time without a beat of the event loop after which this process counts as frozen: stopped, or starved."""
DISTRUST_SECONDS = 4.0
"""Longest time after a freeze without the features of the snapshot, if the service does not confirm it sooner."""


class Exposure:
    """Decide for requests by the newest snapshot and local overrides. For one event loop."""

    def __init__(
        self,
        defaults: Features,
        local: LocalOverrides,
        evidence: Evidence,
        metrics: GatewayMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.evidence = evidence
        self.served: Served | None = None
        self.local = local
        self._defaults = defaults
        self._metrics = metrics
        self._clock = clock
        self._confirmed = -float("inf")
        self._beat = clock()
        self._distrust_until = -float("inf")
        self.freezes = 0
        """Number of freezes so far: what was read from a stream of before one is no news."""
        self._decided: list[Decision] = []
        self._table = self._make_table()

    @property
    def table(self) -> RolloutTable:
        """The table that decides now."""
        return self._table

    def silence(self) -> float:
        """Seconds since the service last confirmed the snapshot; infinite for one from disk."""
        return self._clock() - self._confirmed

    def decide(self, unit: str, own: Overrides = Overrides()) -> Decision:  # noqa: B008  # immutable
        """Decide for one request; keep the decision until it ends. See RolloutTable.decide."""
        return self._noted(unit, self._trusted().decide(unit, own, silence=self.silence()))

    def resume(self, unit: str, page: Page) -> Decision:
        """Decide for a later page. See RolloutTable.resume."""
        return self._noted(unit, self._trusted().resume(unit, page, silence=self.silence()))

    def _trusted(self) -> RolloutTable:
        self.beat()
        trusted = self._clock() >= self._distrust_until
        # A kill may have come while this process was frozen, so nothing that ramps or is complete reaches users.
        return self._table if trusted else RolloutTable(self._defaults, (), self._table.kills)

    def _noted(self, unit: str, decision: Decision) -> Decision:
        self._decided.append(decision)
        if len(self._decided) >= _MOST_UNCOUNTED:
            self.count()
        if not unit:
            self._metrics.anonymous_requests.inc()
        return decision

    def take(self, served: Served) -> None:
        """Decide by this snapshot from now on. Its leases begin when it is confirmed."""
        self.beat()
        before = {entry.name for entry in self.served.quarantined} if self.served else set()
        self.served = served
        self._table = self._make_table()
        self.evidence.keep_only(ramp.ramp_id for ramp in served.ramps)
        for entry in served.quarantined:
            if entry.name not in before:
                _log.error("feature quarantined", feature=entry.name, problem=entry.reason, version=served.version)
        self._metrics.snapshot_version.set(served.version)
        self._metrics.quarantined.clear()
        for entry in served.quarantined:
            self._metrics.quarantined.labels(entry.name).set(1)

    def confirm(self, freezes: int = 0) -> None:
        """Note that the service has just confirmed the snapshot: leases start again.

        `freezes` is the number of freezes when the stream that says so was opened.
        """
        if freezes == self.freezes:
            self._confirmed = self._clock()
            self._distrust_until = -float("inf")

    def beat(self) -> None:
        """Note that the event loop runs; four times a second, and before each decision."""
        now = self._clock()
        if self.served is not None and now - self._beat > FROZEN_SECONDS:
            self.freezes += 1
            self._distrust_until = now + DISTRUST_SECONDS
            _log.warning("this process was frozen; features wait for the rollout service", seconds=now - self._beat)
        self._beat = now

    def override(self, local: LocalOverrides, problem_count: int = 0) -> None:
        """Decide with these local overrides from now on; their file has so many problems."""
        self.local = local
        self._metrics.override_problems.set(problem_count)
        self._table = self._make_table()

    def count(self) -> None:
        """Count the decisions since the last time, all at once: it is cheaper than at each request."""
        decided, self._decided = self._decided, []
        counts: dict[tuple[str, str], int] = {}
        for decision in decided:
            for arm in decision.arms:
                key = (arm.feature, arm.arm.value)
                counts[key] = counts.get(key, 0) + 1
        for (feature, side), count in counts.items():
            self._metrics.exposures.labels(feature, side).inc(count)
        parts = Counter(part for decision in decided for part in decision.experiments)
        for part, count in parts.items():
            self._metrics.experiments.labels(part.experiment, part.arm).inc(count)
        lost = self.evidence.take_lost()
        self._metrics.evidence_lost.labels("requests").inc(lost.requests)
        self._metrics.evidence_lost.labels("units").inc(lost.units)

    def _make_table(self) -> RolloutTable:
        served = self.served
        ramps = [*self.local.ramps(), *(served.ramps if served else ())]
        kills = list(served.kills if served else ())
        known = {kill.name for kill in kills}
        held = set(self.local.killed)
        kills += [Kill(ramp.name, ramp.overrides, ramp.ramp_id) for ramp in ramps if ramp.name in held - known]
        experiments = served.experiments if served else ()
        kills += [Kill(one.name, Overrides(), one.run_id) for one in experiments if one.name in held - known]
        quarantined = served.quarantined if served else ()
        kills += [Kill(entry.name, entry.overrides) for entry in quarantined if entry.name in held - known]
        self._metrics.locally_killed.clear()
        for name in sorted(held):
            self._metrics.locally_killed.labels(name).set(1)
        for ramp in ramps:
            # A series that exists from the start shows its first increase.
            for arm in Arm:
                self._metrics.exposures.labels(ramp.name, arm.value)
        return RolloutTable(
            self._defaults,
            [ramp for ramp in ramps if ramp.name not in held],
            kills,
            served.version if served else 0,
            [experiment for experiment in experiments if experiment.name not in held],
        )


class Watcher(Protocol):
    """Somebody who is told of the answer to a request, and of its end."""

    def shown(self, answer: Answer) -> None:
        """Take the results."""

    def ended(self, ending: Ending) -> None:
        """Take the end, unless it is a mistake of the caller."""


class Observed:
    """A request under way, which becomes evidence at its end: `with Observed(...) as observed: ...`."""

    def __init__(self, evidence: Evidence, decision: Decision, deadline: float, watcher: Watcher | None = None) -> None:
        """`deadline` is a moment on the monotonic clock."""
        self._watcher = watcher
        self._evidence = evidence
        self._decision = decision
        self._deadline = deadline
        self._started = time.perf_counter()
        self._empty = False
        self._quality: float | None = None
        self._idle_stages: frozenset[str] = frozenset()
        self._seconds: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since it began, until its results were there."""
        return time.perf_counter() - self._started if self._seconds is None else self._seconds

    def answered(self, answer: Answer, *, quality: float | None) -> None:
        """Note its results. What comes after them takes time of its own, which is no evidence."""
        self._empty, self._quality = not answer.results, quality
        self._idle_stages = answer.idle_stages
        self._seconds = self.seconds
        if self._watcher is not None:
            self._watcher.shown(answer)

    def reasoned(self, idle_stages: frozenset[str], whole: Answer) -> None:
        """Note stages after the results that did not do their work, and the results with those that came later."""
        self._idle_stages |= idle_stages
        if self._watcher is not None:
            self._watcher.shown(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not kind_of(error).evidence:
            return
        late = time.monotonic() >= self._deadline
        ended = isinstance(error, asyncio.CancelledError | GeneratorExit)  # a stream is closed, and not cancelled
        timed_out = isinstance(error, DeadlineExceeded) or (ended and late)
        given_up = ended and not late
        ending = Ending(
            seconds=self.seconds,
            failed=error is not None and not given_up,
            timed_out=timed_out,
            given_up=given_up,
            empty=self._empty,
            quality=self._quality,
            idle_stages=self._idle_stages,
        )
        self._evidence.request(self._decision.arms, ending)
        if self._watcher is not None:
            self._watcher.ended(ending)
