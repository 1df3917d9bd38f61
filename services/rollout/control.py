"""The control plane: what people command and what the evidence decides, each in one transaction.

A command or decision, the history that tells of it, the snapshot that carries it and the run of evidence that begins
with it become durable together or not at all. Domain code: no transport; the records and the clock are handed in.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.experiment.bucketing import BUCKETS, Arm, arm_of, bucket_of
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES
from services.rollout.decisions import (
    COMPARED,
    Action,
    Decision,
    Patience,
    Run,
    decide,
    evidence_of,
    obstacles_of,
)
from services.rollout.evidence import MAX_UNITS, Findings, latency_percentile, summarize
from services.rollout.features import (
    Feature,
    FeatureState,
    HoldCause,
    Overrides,
    check_feature,
    check_share,
)
from services.rollout.gateways import Gateway, Gateways
from services.rollout.plans import Plan, check_plan
from services.rollout.records import HistoryEntry, Records, SealedSnapshot
from services.rollout.snapshots import Quarantined, SnapshotFeature, snapshot_of

OURSELVES = "sluice"
MAX_FEATURES = 200
MAX_GATEWAYS = 1000
MAX_ACTOR_BYTES = 256
MAX_REASON_BYTES = 4096
MAX_COMMAND_ID_CHARACTERS = 128

_THRESHOLD_REQUESTS = 50
"""Requests of control from which its P95 is taken for a threshold."""
_SAME_THRESHOLD = 0.05
"""A threshold that moved by less is left as it is: a new one is a new snapshot for everybody."""
_PURGED_UNITS = 20_000
_MOST_REPORTED_UNITS = 100_000
_REPORTS_KEPT_SECONDS = 86_400.0
_GATEWAY_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_EXPOSED = (FeatureState.RAMPING, FeatureState.HELD, FeatureState.COMPLETE)


@dataclass(frozen=True, slots=True)
class Command:
    """Who wants something and why. Empty command_id: not to be recognised again."""

    actor: str
    reason: str
    command_id: str


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What one gateway saw in one arm of one run since its last report."""

    feature: str
    ramp_id: str
    arm: Arm
    request_count: int
    units: Sequence[int]
    event_counts: dict[Guardrail, int]
    bad_units: dict[Guardrail, Sequence[int]]
    latency_counts: Sequence[int]
    shadow_win_count: int
    shadow_loss_count: int
    shadow_tie_count: int
    shadow_overlap_sum: float
    quality_score_sum: float
    quality_score_count: int


class Seal(Protocol):
    """Encodes the features of a snapshot; returns the bytes and their hash."""

    def __call__(self, features: Sequence[SnapshotFeature]) -> tuple[bytes, str]:
        """See above."""


@dataclass(frozen=True, slots=True)
class Look:
    """How everything stands, as of the last decision."""

    time: float
    features: list[Feature]
    findings: dict[str, Findings]
    live: list[Gateway]
    undone: list[HistoryEntry]
    """What was done to features and not acknowledged by every live gateway."""
    snapshot: SealedSnapshot


class Observer(Protocol):
    """Is told what happened, for logs and metrics, once it is durable or about to be."""

    def happened(self, entry: HistoryEntry) -> None:
        """An entry of the history was written."""

    def done(self, entry: HistoryEntry, seconds: float) -> None:
        """Every live gateway serves what an entry brought, so many seconds after it."""

    def quarantined(self, features: Sequence[Quarantined]) -> None:
        """These features are left out of the snapshot."""

    def late_evidence(self) -> None:
        """Evidence of a run that is over was left aside."""

    def looked(self, look: Look) -> None:
        """Every ramp was decided upon."""


class Control:
    """The one that commands and decides. Not thread safe: calls are made one after the other.

    `seal` encodes snapshots, `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        gateways: Gateways,
        *,
        seal: Seal,
        observer: Observer,
        patience: Patience,
        latency_window_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.gateways = gateways
        self._seal = seal
        self._observer = observer
        self._patience = patience
        self._window_seconds = latency_window_seconds
        self._clock = clock
        self._since = clock()

    def take_over(self, records: Records) -> None:
        """Begins where an earlier process, or another replica, ended."""
        self._since = self._clock()
        self.gateways.load(records.gateways(), self._since)
        self._publish(records)

    # Commands

    def create(
        self, records: Records, command: Command, name: str, description: str, overrides: Overrides, salt: str
    ) -> Feature:
        """Makes a feature that reaches nobody yet. Raises AlreadyExists."""
        feature = Feature(name, description, salt or name, overrides)

        def create(before: Feature | None) -> tuple[Feature, str]:
            if before is not None:
                raise AlreadyExists(f"there is a feature {name!r} already", reason="FEATURE_EXISTS", feature=name)
            check_feature(feature)
            if len(description.encode()) > MAX_REASON_BYTES:
                raise InvalidArgument("description", f"is longer than {MAX_REASON_BYTES:,} bytes")
            if len(records.features()) >= MAX_FEATURES:
                raise ResourceExhausted(f"there are {MAX_FEATURES} features already", reason="TOO_MANY_FEATURES")
            records.add(feature)
            return feature, "CREATED"

        return self._command(records, command, "create", name, (description, overrides, salt), create)

    def start(self, records: Records, command: Command, name: str, plan: Plan) -> Feature:
        """Begins a plan's first step."""
        check_plan(plan)

        def start(feature: Feature) -> tuple[Feature, str]:
            if feature.state is not FeatureState.READY:
                raise _not_ready(feature)
            check_feature(feature)
            after = replace(feature, plan=plan, step=1, treatment_ppm=plan.share(1), state=FeatureState.RAMPING)
            return after, "STARTED"

        return self._command(records, command, "start", name, plan, _existing(start, name))

    def promote(self, records: Records, command: Command, name: str) -> Feature:
        """Goes on to the next step of the plan, where the evidence allows it."""

        def promote(feature: Feature) -> tuple[Feature, str]:
            if feature.state is FeatureState.COMPLETE:
                raise FailedPrecondition(f"{name!r} is complete: there is no step left", reason="LAST_STEP")
            run = records.run(feature.run) if feature.watched else None
            if run is None or feature.plan is None:
                raise _not_ramping(feature)
            decision = self._decide(feature, run)
            missing = [] if decision.action in (Action.WAIT, Action.PROMOTE, Action.RESUME) else [decision.reason]
            obstacles = [*missing, *obstacles_of(feature, run)]
            if obstacles:
                raise FailedPrecondition(
                    f"the evidence does not allow it: {'; '.join(obstacles)}", reason="NOT_SHOWN", feature=name
                )
            return _next_step(feature)

        return self._command(records, command, "promote", name, None, _existing(promote, name))

    def hold(self, records: Records, command: Command, name: str) -> Feature:
        """Keeps the share where it is until a person promotes."""

        def hold(feature: Feature) -> tuple[Feature, str]:
            if not feature.watched:
                raise _not_ramping(feature)
            return replace(feature, state=FeatureState.HELD, hold_cause=HoldCause.PERSON), "HELD"

        return self._command(records, command, "hold", name, None, _existing(hold, name))

    def set_percentage(self, records: Records, command: Command, name: str, treatment_ppm: int) -> Feature:
        """Sets the share by hand: it is kept there, and watched, until a person says more. All users is complete."""
        check_share("treatment_ppm", treatment_ppm)

        def set_share(feature: Feature) -> tuple[Feature, str]:
            if feature.state in (FeatureState.ROLLED_BACK, FeatureState.KILLED):
                raise _not_ready(feature)
            after = replace(feature, treatment_ppm=treatment_ppm, hold_cause=None)
            if treatment_ppm == 0:
                return replace(after, state=FeatureState.READY, plan=None, step=0), "SET"
            if treatment_ppm == BUCKETS:
                return replace(after, state=FeatureState.COMPLETE), "SET"
            return replace(after, state=FeatureState.HELD, hold_cause=HoldCause.PERSON), "SET"

        return self._command(records, command, "set", name, treatment_ppm, _existing(set_share, name))

    def halve(self, records: Records, command: Command, name: str) -> Feature:
        """Halves the share and keeps it there: last in, first out."""

        def halve(feature: Feature) -> tuple[Feature, str]:
            if feature.state not in _EXPOSED or not feature.treatment_ppm:
                raise _not_ramping(feature)
            return _halved(feature, HoldCause.PERSON)

        return self._command(records, command, "halve", name, None, _existing(halve, name))

    def roll_back(self, records: Records, command: Command, name: str) -> Feature:
        """Takes the feature back from everybody."""

        def roll_back(feature: Feature) -> tuple[Feature, str]:
            if feature.state is FeatureState.KILLED:
                raise FailedPrecondition(f"{name!r} is killed, which is more", reason="KILLED", feature=name)
            return _rolled_back(feature)

        return self._command(records, command, "roll back", name, None, _existing(roll_back, name))

    def kill(self, records: Records, command: Command, name: str) -> Feature:
        """Switches the feature off for everybody, whatever a request asks for."""

        def kill(feature: Feature) -> tuple[Feature, str]:
            return replace(_rolled_back(feature)[0], state=FeatureState.KILLED), "KILLED"

        return self._command(records, command, "kill", name, None, _existing(kill, name))

    def rearm(self, records: Records, command: Command, name: str) -> Feature:
        """Lets a feature that was rolled back or killed be started again."""

        def rearm(feature: Feature) -> tuple[Feature, str]:
            if feature.state not in (FeatureState.ROLLED_BACK, FeatureState.KILLED):
                raise FailedPrecondition(
                    f"{name!r} is {_said(feature.state)}: only what was rolled back or killed is armed again",
                    reason="NOT_ROLLED_BACK",
                    feature=name,
                )
            return replace(feature, state=FeatureState.READY, plan=None, step=0, breach_count=0), "REARMED"

        return self._command(records, command, "rearm", name, None, _existing(rearm, name))

    def _command(
        self,
        records: Records,
        command: Command,
        kind: str,
        name: str,
        asked: object,
        change: Callable[[Feature | None], tuple[Feature, str]],
    ) -> Feature:
        _check_command(command)
        fingerprint = hashlib.sha256(repr((kind, name, asked)).encode()).hexdigest()
        if command.command_id and (earlier := records.remembered(command.command_id)) is not None:
            if earlier[0] != fingerprint:
                raise AlreadyExists(
                    f"command_id {command.command_id!r} was another command's", reason="COMMAND_ID_REUSED"
                )
            return earlier[1]
        before = records.feature(name)
        after, action = change(before)
        after = self._apply(records, before or after, after, action, command.actor, command.reason)
        if command.command_id:
            records.remember(command.command_id, fingerprint, self._clock(), after)
        return after

    def _apply(
        self, records: Records, before: Feature, after: Feature, action: str, actor: str, reason: str
    ) -> Feature:
        """Writes a change down: run of evidence, feature, snapshot and history."""
        now = self._clock()
        # A hold that is said twice, or a kill of what is killed, changes nothing and needs no entry.
        if action not in ("CREATED", "SET") and replace(after, reason="") == replace(before, reason=""):
            return before
        run = records.run(before.run) if before.run else None
        findings = _findings(before, run)
        if after.treatment_ppm != before.treatment_ppm or after.watched != before.watched:
            if run is not None:
                run.end_time = now
                records.save_run(run)
            number = records.begin_run(after, now, _threshold_of(run)).number if after.watched else 0
            after = replace(after, run=number, step_start_time=now if after.treatment_ppm else None)
        after = replace(after, reason=reason)
        records.save(after)
        entry = HistoryEntry(
            now,
            after.name,
            action,
            actor,
            reason,
            before.treatment_ppm,
            after.treatment_ppm,
            after.state,
            self._publish(records).version,
            findings,
        )
        entry = replace(entry, number=records.add_history(entry))
        self._observer.happened(entry)
        return after

    def _publish(self, records: Records) -> SealedSnapshot:
        """The snapshot of what holds now: a new one, if it is not the newest already."""
        thresholds = {run.number: run.latency_threshold for run in records.runs()}
        served, quarantined = snapshot_of(records.features(), thresholds)
        self._observer.quarantined(quarantined)
        body, content_hash = self._seal(served)
        newest = records.newest_snapshot()
        if newest is not None and newest.content_hash == content_hash:
            return newest
        snapshot = SealedSnapshot(newest.version + 1 if newest else 1, content_hash, self._clock(), body)
        records.publish(snapshot)
        return snapshot

    # Gateways

    def acknowledge(
        self,
        records: Records,
        gateway: str,
        version: int,
        quarantined: tuple[Quarantined, ...],
        locally_killed: tuple[str, ...],
    ) -> None:
        """A gateway serves a version from now on."""
        self.hear(gateway)
        if version < 0:
            raise InvalidArgument("version", f"must be at least 0, not {version}")
        if len(quarantined) > MAX_FEATURES or len(locally_killed) > MAX_FEATURES:
            raise InvalidArgument("quarantined", f"names more than {MAX_FEATURES} features")
        known = self.gateways.acknowledged(gateway, version, self._clock(), quarantined, locally_killed)
        records.save_gateway(known)
        self._complete(records)

    def hear(self, gateway: str) -> None:
        """A word from a gateway. Raises InvalidArgument where that is no name, ResourceExhausted for too many."""
        if not _GATEWAY_NAME.fullmatch(gateway):
            raise InvalidArgument("gateway", "must be 1 to 128 visible ASCII characters")
        if gateway not in self.gateways and len(self.gateways) >= MAX_GATEWAYS:
            raise ResourceExhausted(f"there are {MAX_GATEWAYS} gateways already", reason="TOO_MANY_GATEWAYS")
        self.gateways.seen(gateway, self._clock())

    def report(
        self, records: Records, gateway: str, incarnation: int, sequence: int, arms: Sequence[ArmReport]
    ) -> None:
        """Adds what a gateway saw; a report that was counted already changes nothing."""
        self.hear(gateway)
        if sequence < 1:
            raise InvalidArgument("sequence", f"must be at least 1, not {sequence}")
        for place, arm in enumerate(arms):
            _check_report(f"arms[{place}]", arm)
        now = self._clock()
        if not records.is_new_report(gateway, incarnation, sequence, now):
            return
        runs = {run.number: run for run in records.runs()}
        touched: dict[int, Run] = {}
        for arm in arms:
            run = runs.get(_run_number(arm))
            if run is None or run.feature != arm.feature:
                self._observer.late_evidence()
                continue
            touched[run.number] = run
            self._add(records, run, arm, now)
        for run in touched.values():
            self._keep_point(records, run, now)
            records.save_run(run)
        records.touch_gateway(gateway, now)
        self.gateways.last_report_time = now

    def _add(self, records: Records, run: Run, report: ArmReport, now: float) -> None:
        totals = run.arms[report.arm]
        if report.request_count:
            seen = max(run.start_time, *(arm.last_request_time for arm in run.arms.values()))
            run.watched_seconds += min(max(0.0, now - seen), self._patience.no_data_seconds)
            totals.last_request_time = now
        units = self._placed(run, report, report.units)
        if sum(arm.unit_count for arm in run.arms.values()) < MAX_UNITS:
            totals.unit_count += len(records.add_units(run.number, units))
        for guardrail, count in report.event_counts.items():
            totals.event_counts[guardrail] = totals.event_counts.get(guardrail, 0) + count
        for guardrail, bad_units in report.bad_units.items():
            first = totals.first_counts.get(guardrail, 0)
            if sum(arm.first_counts.get(guardrail, 0) for arm in run.arms.values()) < MAX_UNITS:
                # The units of shadow pairs are control's, whichever side was worse.
                placed = bad_units if guardrail is Guardrail.QUALITY else self._placed(run, report, bad_units)
                first += len(records.add_bad_units(run.number, guardrail, placed))
            totals.first_counts[guardrail] = first
        for place, count in enumerate(report.latency_counts):
            totals.latency_counts[place] += count
            totals.window_counts[place] += count
        totals.request_count += report.request_count
        totals.shadow_win_count += report.shadow_win_count
        totals.shadow_loss_count += report.shadow_loss_count
        totals.shadow_tie_count += report.shadow_tie_count
        totals.shadow_overlap_sum += report.shadow_overlap_sum
        totals.quality_score_sum += report.quality_score_sum
        totals.quality_score_count += report.quality_score_count

    def _placed(self, run: Run, report: ArmReport, units: Sequence[int]) -> list[int]:
        """Units whose bucket is in the arm that they are reported in: all of them, unless a gateway buckets wrongly."""
        placed = [unit for unit in units if arm_of(bucket_of(unit), run.treatment_ppm, run.control_ppm) is report.arm]
        run.misplaced_unit_count += len(units) - len(placed)
        return placed

    def _keep_point(self, records: Records, run: Run, now: float) -> None:
        """A point of the curve: often at the beginning, where it moves, and seldom later."""
        if now - run.point_time >= max(1.0, (now - run.start_time) / 50):
            feature = records.feature(run.feature)
            if feature is not None:
                records.add_point(run.number, now, _findings(feature, run))
                run.point_time = now

    # What happens by itself

    def tick(self, records: Records) -> None:
        """Decides about every ramp, and does what else falls due."""
        runs = {run.number: run for run in records.runs()}
        for feature in records.features():
            run = runs.get(feature.run)
            if run is not None and feature.watched:
                self._carry_out(records, feature, self._decide(feature, run))
        for run in records.runs():
            self._renew_threshold(records, run)
        self._complete(records)
        now = self._clock()
        if gone := self.gateways.forget(now):
            records.forget_gateways(gone, reports_before=now - _REPORTS_KEPT_SECONDS)
        records.purge_units(_PURGED_UNITS)
        features, runs = records.features(), {run.number: run for run in records.runs()}
        self._observer.looked(
            Look(
                now,
                features,
                {feature.name: _findings(feature, runs.get(feature.run)) for feature in features},
                self.gateways.live(now),
                records.undone(),
                self._publish(records),
            )
        )

    def _decide(self, feature: Feature, run: Run) -> Decision:
        return decide(
            feature,
            run,
            now=self._clock(),
            since=self._since,
            reported=self.gateways.last_report_time,
            patience=self._patience,
        )

    def _carry_out(self, records: Records, feature: Feature, decision: Decision) -> None:
        match decision.action:
            case Action.ROLL_BACK:
                after, action = _rolled_back(feature)
            case Action.HALVE:
                after, action = _halved(feature, HoldCause.BREACH)
            case Action.HOLD:
                after = replace(feature, state=FeatureState.HELD, hold_cause=decision.hold_cause)
                action = "HELD"
            case Action.RESUME:
                after, action = replace(feature, state=FeatureState.RAMPING, hold_cause=None), "RESUMED"
            case Action.PROMOTE:
                after, action = _next_step(feature)
            case Action.WAIT:
                return
        after = replace(after, breach_count=feature.breach_count + decision.breached)
        self._apply(records, feature, after, action, OURSELVES, decision.reason)

    def _renew_threshold(self, records: Records, run: Run) -> None:
        """Freezes control's P95 of the window that ends as the threshold of the next."""
        now = self._clock()
        control = run.arms[Arm.CONTROL]
        if now - run.window_start_time < self._window_seconds or sum(control.window_counts) < _THRESHOLD_REQUESTS:
            return
        before, found = run.latency_threshold, latency_percentile(control.window_counts, 95)
        if before is None or found is None or abs(math.log(found / before)) >= _SAME_THRESHOLD:
            run.latency_threshold = found
        run.window_start_time = now
        for totals in run.arms.values():
            totals.window_counts = [0] * (len(EDGES) + 1)
        records.save_run(run)

    def _complete(self, records: Records) -> None:
        """Writes down which entries every live gateway serves by now."""
        now = self._clock()
        for entry in records.undone():
            if not self.gateways.behind(entry.snapshot_version, now):
                records.done(entry.number, now)
                self._observer.done(entry, max(0.0, now - entry.time))


def _existing(
    change: Callable[[Feature], tuple[Feature, str]], name: str
) -> Callable[[Feature | None], tuple[Feature, str]]:
    """A change of a feature that has to be there."""

    def changed(feature: Feature | None) -> tuple[Feature, str]:
        if feature is None:
            raise NotFound(f"there is no feature {name!r}", reason="FEATURE_NOT_FOUND", feature=name)
        return change(feature)

    return changed


def _next_step(feature: Feature) -> tuple[Feature, str]:
    after = replace(feature, state=FeatureState.RAMPING, hold_cause=None)
    step = feature.plan.step_after(feature.treatment_ppm) if feature.plan else None
    if feature.plan is None or step is None:
        return replace(after, state=FeatureState.COMPLETE), "COMPLETED"
    return replace(after, step=step, treatment_ppm=feature.plan.share(step)), "PROMOTED"


def _halved(feature: Feature, cause: HoldCause) -> tuple[Feature, str]:
    share = feature.treatment_ppm // 2
    if share == 0:
        return _rolled_back(feature)
    return replace(feature, treatment_ppm=share, state=FeatureState.HELD, hold_cause=cause), "HALVED"


def _rolled_back(feature: Feature) -> tuple[Feature, str]:
    return replace(feature, treatment_ppm=0, state=FeatureState.ROLLED_BACK, hold_cause=None), "ROLLED_BACK"


def _threshold_of(run: Run | None) -> float | None:
    """The threshold for the run after this one: control's P95 in the window that it cuts short, or the one before."""
    if run is None:
        return None
    window = run.arms[Arm.CONTROL].window_counts
    return latency_percentile(window, 95) if sum(window) >= _THRESHOLD_REQUESTS else run.latency_threshold


def _findings(feature: Feature, run: Run | None) -> Findings:
    if run is None:
        return Findings()
    guardrails = evidence_of(feature, run) if run.control_ppm else []
    return Findings(tuple(guardrails), tuple(summarize(arm, run.arms[arm]) for arm in COMPARED))


def _said(state: FeatureState) -> str:
    return state.value.replace("_", " ")


def _not_ready(feature: Feature) -> FailedPrecondition:
    reason, remedy = {
        FeatureState.KILLED: ("KILLED", "arm it again first"),
        FeatureState.ROLLED_BACK: ("NEEDS_REARM", "arm it again first"),
        FeatureState.COMPLETE: ("COMPLETE", "it reaches everybody already"),
    }.get(feature.state, ("ALREADY_RAMPING", "hold it, set its percentage, or roll it back"))
    return FailedPrecondition(
        f"{feature.name!r} is {_said(feature.state)}: {remedy}", reason=reason, feature=feature.name
    )


def _not_ramping(feature: Feature) -> FailedPrecondition:
    if feature.state in (FeatureState.KILLED, FeatureState.ROLLED_BACK):
        return _not_ready(feature)
    told = "has no plan under way" if feature.watched else f"is {_said(feature.state)}"
    return FailedPrecondition(f"{feature.name!r} {told}", reason="NOT_RAMPING", feature=feature.name)


def _check_command(command: Command) -> None:
    if not command.actor.strip() or len(command.actor.encode()) > MAX_ACTOR_BYTES or not command.actor.isprintable():
        raise InvalidArgument("command.actor", f"must say who, in 1 to {MAX_ACTOR_BYTES} bytes of printable text")
    if not command.reason.strip() or len(command.reason.encode()) > MAX_REASON_BYTES:
        raise InvalidArgument("command.reason", f"must say why, in 1 to {MAX_REASON_BYTES:,} bytes")
    if len(command.command_id) > MAX_COMMAND_ID_CHARACTERS or "\0" in command.command_id + command.reason:
        raise InvalidArgument("command.command_id", f"must be at most {MAX_COMMAND_ID_CHARACTERS} characters")


def _run_number(report: ArmReport) -> int:
    name, _, number = report.ramp_id.rpartition(".")
    return int(number) if name == report.feature and number.isascii() and number.isdigit() and len(number) < 10 else 0


def _check_report(where: str, report: ArmReport) -> None:
    """Refuses what cannot be: the whole report is then dropped, since nothing tells which part of it is right."""
    if report.arm not in COMPARED:
        raise InvalidArgument(f"{where}.arm", "must be treatment or control")
    counts = {
        "request_count": report.request_count,
        "shadow_win_count": report.shadow_win_count,
        "shadow_loss_count": report.shadow_loss_count,
        "shadow_tie_count": report.shadow_tie_count,
        "quality_score_count": report.quality_score_count,
        "bad_events": min(report.event_counts.values(), default=0),
        "latency_counts": min(report.latency_counts, default=0),
    }
    for name, count in counts.items():
        if not 0 <= count <= 1 << 40:
            raise InvalidArgument(f"{where}.{name}", f"is not a count: {count}")
    if len(report.latency_counts) not in (0, len(EDGES) + 1):
        raise InvalidArgument(f"{where}.latency_counts", f"must hold {len(EDGES) + 1} counts or none")
    if max(len(units) for units in (report.units, *report.bad_units.values())) > _MOST_REPORTED_UNITS:
        raise InvalidArgument(f"{where}.units", f"hold more than {_MOST_REPORTED_UNITS:,}; report more often")
    if sum(report.latency_counts) > report.request_count:
        raise InvalidArgument(f"{where}.latency_counts", "count more than there were requests")
    for name, total, most in (
        ("shadow_overlap_sum", report.shadow_overlap_sum, _pairs(report)),
        ("quality_score_sum", report.quality_score_sum, report.quality_score_count),
    ):
        if not (math.isfinite(total) and 0 <= total <= most * (1 + 1e-6)):
            raise InvalidArgument(f"{where}.{name}", f"must be between 0 and {most}, not {total}")
    for guardrail, count in report.event_counts.items():
        if len(report.bad_units.get(guardrail, ())) > count:
            raise InvalidArgument(f"{where}.bad_events", f"name more units than there were {guardrail.value} events")
        if guardrail is not Guardrail.QUALITY and count > report.request_count:
            raise InvalidArgument(f"{where}.bad_events", f"count more {guardrail.value} than there were requests")


def _pairs(report: ArmReport) -> int:
    return report.shadow_win_count + report.shadow_loss_count + report.shadow_tie_count
