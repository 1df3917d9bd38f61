"""The control plane: commands of operators and decisions by evidence, each in one transaction.

A command or decision, the history that tells of it, the snapshot that carries it and the run of evidence that begins
with it become durable together or not at all. Domain code: no transport; the records and the clock are handed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.experiment.latencies import EDGES
from services.rollout import reports, transitions
from services.rollout.commands import MAX_REASON_BYTES, OURSELVES, Command, once
from services.rollout.decisions import (
    COMPARED,
    NO_RATINGS,
    Action,
    Decision,
    Patience,
    Ratings,
    Run,
    decide,
    evidence_of,
    obstacles_of,
)
from services.rollout.evidence import Findings, latency_percentile, summarize
from services.rollout.experiments.records import ExperimentRecords
from services.rollout.features import Feature, FeatureState, HistoryAction, HoldCause, check_feature
from services.rollout.feedback.storage import FeedbackRecords
from services.rollout.gateways import Gateway, Gateways
from services.rollout.reports import ArmReport
from services.rollout.snapshots import Quarantined, SealedSnapshot, snapshot_of
from services.rollout.storage.records import FEATURE, HistoryEntry, Records
from services.rollout.transitions import Changed, Transition

MAX_FEATURES = 200
MAX_ENTRIES = 1000
"""Most features and experiments that a gateway takes in a snapshot."""
MAX_GATEWAYS = 1000
MAX_GATEWAY_CHARACTERS = 128

_THRESHOLD_REQUESTS = 50
"""Least requests of control from which its P95 becomes a threshold."""
_SAME_THRESHOLD = 0.05
"""Relative change below which a threshold is kept: a new one means a new snapshot for all gateways."""
_PURGED_UNITS = 20_000
_RATINGS_SECONDS = 5.0
_REPORTS_KEPT_SECONDS = 86_400.0
_GATEWAY_NAME = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Look:
    """State of all features and gateways as of the last decision."""

    time: float
    features: list[Feature]
    findings: dict[str, Findings]
    live: list[Gateway]
    undone: list[HistoryEntry]
    """Changes that some live gateway has not acknowledged."""
    snapshot: SealedSnapshot


class Observer(Protocol):
    """Receiver of events, for logs and metrics."""

    def happened(self, entry: HistoryEntry) -> None:
        """Take an entry of the history that was written."""

    def done(self, entry: HistoryEntry, seconds: float) -> None:
        """Take the seconds after which every live gateway served a change."""

    def quarantined(self, features: Sequence[Quarantined]) -> None:
        """Take the features that are left out of the snapshot."""

    def late_evidence(self) -> None:
        """Count evidence that came after its run had ended."""

    def looked(self, look: Look) -> None:
        """Take the state after all ramps were decided upon."""


class Control:
    """Carries out commands and decisions. Not thread safe: calls are made one after the other.

    `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        gateways: Gateways,
        *,
        lease_seconds: float,
        observer: Observer,
        patience: Patience,
        latency_window_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self.gateways = gateways
        self._lease_seconds = lease_seconds
        self._observer = observer
        self._patience = patience
        self._window_seconds = latency_window_seconds
        self._clock = clock
        self._since = clock()
        self._ratings: dict[str, tuple[str, float, Ratings]] = {}

    def take_over(self, records: Records) -> None:
        """Continue where an earlier process, or another replica, ended."""
        self._since = self._clock()
        self.gateways.load(records.gateways(), self._since)
        self._publish(records)

    # Commands

    def create(
        self, records: Records, command: Command, name: str, description: str, overrides: Overrides, salt: str
    ) -> Feature:
        """Create a feature that reaches no users yet. Raises AlreadyExists."""
        feature = Feature(name, description, salt or name, overrides)

        def create(before: Feature | None) -> Changed:
            if before is not None:
                raise AlreadyExists(f"there is a feature {name!r} already", reason="FEATURE_EXISTS", feature=name)
            check_feature(feature)
            if len(description.encode()) > MAX_REASON_BYTES:
                raise InvalidArgument("description", f"is longer than {MAX_REASON_BYTES:,} bytes")
            if ExperimentRecords(records.connection).knows(name):
                raise AlreadyExists(f"there is an experiment {name!r}", reason="EXPERIMENT_EXISTS", experiment=name)
            if len(records.features()) >= MAX_FEATURES:
                raise ResourceExhausted(f"there are {MAX_FEATURES} features already", reason="TOO_MANY_FEATURES")
            records.add(feature)
            return feature, HistoryAction.CREATED

        return self._command(records, command, "create", name, (description, overrides, salt), create)

    def promote(self, records: Records, command: Command, name: str) -> Feature:
        """Go on to the next step of the plan, where the evidence allows it."""

        def promote(feature: Feature) -> Changed:
            if feature.state is FeatureState.COMPLETE:
                raise FailedPrecondition(f"{name!r} is complete: there is no step left", reason="LAST_STEP")
            run = records.run(feature.run) if feature.watched else None
            if run is None or feature.plan is None:
                raise transitions.not_ramping(feature)
            decision = self._decide(records, feature, run)
            missing = [] if decision.action in (Action.WAIT, Action.PROMOTE, Action.RESUME) else [decision.reason]
            obstacles = [*missing, *obstacles_of(feature, run, ratings_of(records, feature))]
            if obstacles:
                raise FailedPrecondition(
                    f"the evidence does not allow it: {'; '.join(obstacles)}", reason="NOT_SHOWN", feature=name
                )
            return transitions.next_step(feature)

        return self.change(records, command, name, "promote", promote)

    def change(
        self, records: Records, command: Command, name: str, kind: str, transition: Transition, asked: object = None
    ) -> Feature:
        """Change a feature. `kind` and `asked` tell a repeated command from another one with the same id."""

        def changed(feature: Feature | None) -> Changed:
            return transition(known(feature, name))

        return self._command(records, command, kind, name, asked, changed)

    def _command(
        self,
        records: Records,
        command: Command,
        kind: str,
        name: str,
        asked: object,
        change: Callable[[Feature | None], Changed],
    ) -> Feature:
        def changed() -> Feature:
            before = records.feature(name)
            after, action = change(before)
            return self._apply(records, before or after, after, action, command.actor, command.reason)

        return once(records, command, (kind, name, asked), changed, FEATURE, self._clock())

    def _apply(
        self, records: Records, before: Feature, after: Feature, action: HistoryAction, actor: str, reason: str
    ) -> Feature:
        """Write a change: run of evidence, feature, snapshot and history."""
        now = self._clock()
        # A second hold, or a kill of a killed feature, changes nothing and needs no entry.
        if action not in (HistoryAction.CREATED, HistoryAction.SHARE_SET) and replace(after, reason="") == replace(
            before, reason=""
        ):
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
        shares = (before.treatment_ppm, after.treatment_ppm)
        self.tell(records, after.name, action, actor, reason, shares, after.state, findings)
        return after

    def tell(
        self,
        records: Records,
        name: str,
        action: HistoryAction,
        actor: str,
        reason: str,
        shares: tuple[int, int],
        state: FeatureState,
        findings: Findings = Findings(),  # noqa: B008  # immutable
    ) -> None:
        """Publish what was saved, and write to the history what it is. `shares` are those before and after."""
        version = self._publish(records).version
        entry = HistoryEntry(self._clock(), name, action, actor, reason, *shares, state, version, findings)
        entry = replace(entry, number=records.add_history(entry))
        self._observer.happened(entry)

    def _publish(self, records: Records) -> SealedSnapshot:
        """Publish a snapshot of features and experiments as they are; return the newest one if nothing has changed."""
        thresholds = {run.number: run.latency_threshold for run in records.runs()}
        running = ExperimentRecords(records.connection).running()
        served, quarantined = snapshot_of(records.features(), thresholds, running)
        self._observer.quarantined(quarantined)
        newest = records.newest_snapshot()
        version = newest.version + 1 if newest else 1
        snapshot = SealedSnapshot.of(served, version, self._clock(), self._lease_seconds)
        if newest is not None and newest.content_hash == snapshot.content_hash:
            return newest
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
        """Note the version that a gateway serves from now on."""
        self.hear(gateway)
        if version < 0:
            raise InvalidArgument("version", f"must be at least 0, not {version}")
        if len(quarantined) > MAX_ENTRIES or len(locally_killed) > MAX_ENTRIES:
            raise InvalidArgument("quarantined", f"names more than {MAX_ENTRIES:,} features")
        known = self.gateways.acknowledged(gateway, version, self._clock(), quarantined, locally_killed)
        records.save_gateway(known)
        self._complete(records)

    def hear(self, gateway: str) -> None:
        """Note a word from a gateway. Raises InvalidArgument for an illegal name, ResourceExhausted for too many."""
        if not _GATEWAY_NAME.fullmatch(gateway) or len(gateway) > MAX_GATEWAY_CHARACTERS:
            raise InvalidArgument("gateway", f"must be 1 to {MAX_GATEWAY_CHARACTERS} visible ASCII characters")
        if gateway not in self.gateways and len(self.gateways) >= MAX_GATEWAYS:
            raise ResourceExhausted(f"there are {MAX_GATEWAYS} gateways already", reason="TOO_MANY_GATEWAYS")
        self.gateways.seen(gateway, self._clock())

    def report(
        self, records: Records, gateway: str, incarnation: int, sequence: int, arms: Sequence[ArmReport]
    ) -> None:
        """Add a gateway's report; a report that was counted already changes nothing."""
        self.hear(gateway)
        if sequence < 1:
            raise InvalidArgument("sequence", f"must be at least 1, not {sequence}")
        for place, arm in enumerate(arms):
            reports.check(f"arms[{place}]", arm)
        now = self._clock()
        if not records.is_new_report(gateway, incarnation, sequence, now):
            return
        runs = {run.number: run for run in records.runs()}
        touched: dict[int, Run] = {}
        for arm in arms:
            run = runs.get(arm.run)
            if run is None or run.feature != arm.feature:
                self._observer.late_evidence()
                continue
            touched[run.number] = run
            reports.add(records, run, arm, now, self._patience.no_data_seconds)
        for run in touched.values():
            self._keep_point(records, run, now)
            records.save_run(run)
        records.touch_gateway(gateway, now)
        self.gateways.last_report_time = now

    def _keep_point(self, records: Records, run: Run, now: float) -> None:
        """Keep a point of the curve: often at the beginning, where it moves, and rarely later."""
        if now - run.point_time >= max(1.0, (now - run.start_time) / 50):
            feature = records.feature(run.feature)
            if feature is not None:
                records.add_point(run.number, now, _findings(feature, run))
                run.point_time = now

    # Decisions

    def tick(self, records: Records) -> None:
        """Decide about every ramp, and do all other work that is due."""
        runs = {run.number: run for run in records.runs()}
        for feature in records.features():
            run = runs.get(feature.run)
            if run is not None and feature.watched:
                self._carry_out(records, feature, self._decide(records, feature, run))
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

    def _decide(self, records: Records, feature: Feature, run: Run) -> Decision:
        return decide(
            feature,
            run,
            now=self._clock(),
            since=self._since,
            reported=self.gateways.last_report_time,
            patience=self._patience,
            ratings=self._ratings_of(records, feature),
        )

    def _ratings_of(self, records: Records, feature: Feature) -> Ratings:
        """Ratings of a few seconds ago: reading them takes longer than deciding."""
        now = self._clock()
        ramp_id, read_time, known = self._ratings.get(feature.name, ("", 0.0, NO_RATINGS))
        if ramp_id != feature.ramp_id or now - read_time >= _RATINGS_SECONDS:
            known = ratings_of(records, feature)
            self._ratings[feature.name] = (feature.ramp_id, now, known)
        return known

    def _carry_out(self, records: Records, feature: Feature, decision: Decision) -> None:
        match decision.action:
            case Action.ROLL_BACK:
                after, action = transitions.roll_back(feature)
            case Action.HALVE:
                after, action = transitions.halve(feature, HoldCause.BREACH)
            case Action.HOLD:
                after, action = transitions.hold(feature, decision.hold_cause)
            case Action.RESUME:
                after, action = transitions.resume(feature)
            case Action.PROMOTE:
                after, action = transitions.next_step(feature)
            case Action.WAIT:
                return
        after = replace(after, breach_count=feature.breach_count + decision.breached)
        self._apply(records, feature, after, action, OURSELVES, decision.reason)

    def _renew_threshold(self, records: Records, run: Run) -> None:
        """Take control's P95 of the window that ends as the threshold of the next."""
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
        """Note the changes that every live gateway serves by now."""
        now = self._clock()
        for entry in records.undone():
            if not self.gateways.behind(entry.snapshot_version, now):
                records.done(entry.number, now)
                self._observer.done(entry, max(0.0, now - entry.time))


def known(feature: Feature | None, name: str) -> Feature:
    """The feature itself. Raises NotFound where there is none."""
    if feature is None:
        raise NotFound(f"there is no feature {name!r}", reason="FEATURE_NOT_FOUND", feature=name)
    return feature


def ratings_of(records: Records, feature: Feature) -> Ratings:
    """Ratings of treatment's answers in the present run; none where the plan does not ask for them."""
    if feature.plan is None or feature.plan.criteria.satisfaction_min is None:
        return NO_RATINGS
    found = [
        user.rating
        for user in FeedbackRecords(records.connection).ratings_of_run(feature.ramp_id)
        if user.arm == Arm.TREATMENT.value and user.unit
    ]
    return Ratings(len(found), sum(found) / len(found)) if found else NO_RATINGS


def _threshold_of(run: Run | None) -> float | None:
    """Threshold for the next run: control's P95 in the window that ends early, or the present threshold."""
    if run is None:
        return None
    window = run.arms[Arm.CONTROL].window_counts
    return latency_percentile(window, 95) if sum(window) >= _THRESHOLD_REQUESTS else run.latency_threshold


def _findings(feature: Feature, run: Run | None) -> Findings:
    if run is None:
        return Findings()
    guardrails = evidence_of(feature, run) if run.control_ppm else []
    return Findings(tuple(guardrails), tuple(summarize(arm, run.arms[arm]) for arm in COMPARED))
