"""The rollout service's series.

`feature` is a label because operators name features, and the service takes no more than 200 of them; and `experiment`
because they name experiments, of which no more than 100 run.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from services.chassis import logs
from services.rollout.commands import OURSELVES
from services.rollout.control import Look, Observer
from services.rollout.experiments.experiments import Cause, Experiment, Verdict
from services.rollout.experiments.findings import Findings
from services.rollout.features import FeatureState, HistoryAction, HoldCause
from services.rollout.feedback.batches import Batch
from services.rollout.snapshots import Quarantined, SealedSnapshot
from services.rollout.storage.records import HistoryEntry

_log = logs.get_logger("rollout")

percentage = Gauge("sluice_rollout_percentage", "Share of users that a feature reaches, 0 to 100.", ["feature"])
state = Gauge("sluice_rollout_state", "1 for the state in which a feature is.", ["feature", "state"])
decisions = Counter(
    "sluice_rollout_decisions_total",
    "What was done to features, by people (`actor` is person) and by the service (sluice).",
    ["feature", "decision", "actor"],
)
log_evidence = Gauge(
    "sluice_rollout_log_evidence", "Log of the e-value against a feature on a ramp.", ["feature", "guardrail"]
)
log_threshold = Gauge(
    "sluice_rollout_log_threshold", "Log of the e-value at which a guardrail is breached.", ["feature", "guardrail"]
)
sample_ratio_mismatch = Gauge(
    "sluice_rollout_sample_ratio_mismatch", "1 while a ramp is held because users are missing from an arm.", ["feature"]
)
stale_data = Gauge("sluice_rollout_stale_data", "1 while a ramp is held because evidence is missing.", ["feature"])
quarantined_features = Gauge(
    "sluice_rollout_quarantined_features", "1 for a feature that this service leaves out of snapshots.", ["feature"]
)
quarantined_gateways = Gauge(
    "sluice_rollout_quarantined_gateways", "Live gateways that do not serve a feature they were told of.", ["feature"]
)
snapshot_version = Gauge("sluice_rollout_snapshot_newest_version", "Version of the newest snapshot.")
snapshot_time = Gauge("sluice_rollout_snapshot_newest_time_seconds", "When it was made, in seconds since 1970.")
live_gateways = Gauge("sluice_rollout_live_gateways", "Gateways that were heard of lately.")
acknowledged_gateways = Gauge(
    "sluice_rollout_acknowledged_gateways", "Live gateways that acknowledged the newest snapshot."
)
unacknowledged_gateways = Gauge(
    "sluice_rollout_unacknowledged_gateways",
    "Live gateways that have not acknowledged the newest rollback or kill, or the end of an experiment; 0 when done.",
    ["feature"],
)
unacknowledged_seconds = Gauge(
    "sluice_rollout_unacknowledged_seconds",
    "Age of the oldest of these that not every live gateway has acknowledged; 0 when there is none.",
)
zero_exposure_seconds = Histogram(
    "sluice_rollout_zero_exposure_seconds",
    "Time from a rollback, a kill or the end of an experiment to the last gateway's acknowledgement.",
    ["feature"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
late_evidence = Counter("sluice_rollout_late_evidence_total", "Evidence left aside because its run was over.")
active = Gauge("sluice_rollout_active", "1 where this replica decides, 0 where it stands by.")
feedback_impressions = Counter(
    "sluice_rollout_feedback_impressions_total",
    "Answers that gateways sent to be stored, those that were there before as well.",
)
feedback_events = Counter(
    "sluice_rollout_feedback_events_total",
    "Events that gateways sent to be stored, by whether they are new (`stored`) or were there before (`duplicate`).",
    ["result"],
)
feedback_commit_seconds = Histogram(
    "sluice_rollout_feedback_commit_seconds",
    "Time of a transaction that stores feedback; several requests share one.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
feedback_commit_rows = Histogram(
    "sluice_rollout_feedback_commit_rows",
    "Rows of a transaction that stores feedback.",
    buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
)
feedback_waiting_bytes = Gauge(
    "sluice_rollout_feedback_waiting_bytes", "Feedback that was received and is not stored yet, in bytes."
)

running_experiments = Gauge("sluice_experiment_running", "1 for an experiment that runs.", ["experiment"])
experiment_users = Gauge(
    "sluice_experiment_users", "Users of an experiment that runs; for interleaving of both arms.", ["experiment"]
)
analysis_time = Gauge(
    "sluice_experiment_analysis_time_seconds",
    "Time of the last analysis of an experiment that runs, or of when this replica began to look, in seconds since "
    "1970.",
    ["experiment"],
)
analysis_seconds = Histogram(
    "sluice_experiment_analysis_seconds",
    "Time that one analysis of one experiment took.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
)
analysis_failures = Counter("sluice_experiment_analysis_failures_total", "Analyses that failed; they are tried again.")
verdicts = Counter(
    "sluice_experiment_verdicts_total",
    "Runs that ended by a verdict (ship, stop, inconclusive), by cause: sample_ratio, guardrail, metric, time.",
    ["verdict", "cause"],
)

# The series exist before the first verdict: a rate cannot show the event with which a series begins.
for _verdict in Verdict:
    for _cause in Cause:
        if _verdict is not Verdict.GO_ON and _cause is not Cause.NONE:
            verdicts.labels(_verdict.value, _cause.value)

_OF_EXPERIMENTS = (running_experiments, experiment_users, analysis_time)
_OF_FEATURES = (
    percentage,
    state,
    log_evidence,
    log_threshold,
    sample_ratio_mismatch,
    stale_data,
    quarantined_gateways,
    unacknowledged_gateways,
)
_URGENT = (HistoryAction.ROLLED_BACK, HistoryAction.KILLED, HistoryAction.STOPPED, HistoryAction.DECIDED)


class FeedbackMetrics:
    """Series of feedback."""

    def stored(self, batches: Sequence[Batch], duplicate_count: int, seconds: float) -> None:
        """See Observer of services.rollout.feedback.writing."""
        feedback_impressions.inc(sum(len(batch.impressions) for batch in batches))
        feedback_events.labels("stored").inc(sum(len(batch.events) for batch in batches) - duplicate_count)
        feedback_events.labels("duplicate").inc(duplicate_count)
        feedback_commit_seconds.observe(seconds)
        feedback_commit_rows.observe(sum(batch.row_count for batch in batches))

    def waiting(self, size: int) -> None:
        """See Observer of services.rollout.feedback.writing."""
        feedback_waiting_bytes.set(size)


class RolloutMetrics(Observer):
    """Series of the rollout service, and log lines about changes of features."""

    def __init__(self) -> None:
        self._quarantined: dict[str, str] = {}
        self._weighed: set[tuple[str, str]] = set()
        self._taken_back: set[str] = set()

    def happened(self, entry: HistoryEntry) -> None:
        """See Observer."""
        actor = OURSELVES if entry.actor == OURSELVES else "person"
        decisions.labels(entry.feature, entry.action.value, actor).inc()
        _log.warning(
            "feature changed",
            feature=entry.feature,
            action=entry.action.value,
            actor=entry.actor,
            reason=entry.reason,
            old_treatment_ppm=entry.old_treatment_ppm,
            new_treatment_ppm=entry.new_treatment_ppm,
            snapshot_version=entry.snapshot_version,
        )

    def done(self, entry: HistoryEntry, seconds: float) -> None:
        """See Observer."""
        if entry.action in _URGENT:
            zero_exposure_seconds.labels(entry.feature).observe(seconds)
            _log.warning("nobody is exposed any more", feature=entry.feature, seconds=round(seconds, 3))

    def quarantined(self, features: Sequence[Quarantined]) -> None:
        """See Observer."""
        now = {feature.name: feature.reason for feature in features}
        if now == self._quarantined:
            return
        quarantined_features.clear()
        for name, reason in now.items():
            quarantined_features.labels(name).set(1)
            _log.error("feature is not served", feature=name, reason=reason)
        self._quarantined = now

    def late_evidence(self) -> None:
        """See Observer."""
        late_evidence.inc()

    def looked(self, look: Look) -> None:
        """See Observer."""
        weighed = set()
        for feature in look.features:
            name = feature.name
            percentage.labels(name).set(feature.treatment_ppm / 10_000)
            # The series exists before the first kill: a rate cannot show the event with which a series begins.
            zero_exposure_seconds.labels(name)
            for one in FeatureState:
                state.labels(name, one.value).set(one is feature.state)
            sample_ratio_mismatch.labels(name).set(feature.hold_cause is HoldCause.MISMATCH)
            stale_data.labels(name).set(feature.hold_cause in (HoldCause.NO_DATA, HoldCause.STALE))
            lacking = sum(any(one.name == name for one in gateway.quarantined) for gateway in look.live)
            quarantined_gateways.labels(name).set(lacking)
            for row in look.findings[name].guardrails:
                log_evidence.labels(name, row.guardrail.value).set(row.log_evidence)
                log_threshold.labels(name, row.guardrail.value).set(row.log_threshold)
                weighed.add((name, row.guardrail.value))
        # A series is never removed and made again: a scrape in between would miss it.
        for labels in self._weighed - weighed:
            log_evidence.remove(*labels)
            log_threshold.remove(*labels)
        self._weighed = weighed
        live_gateways.set(len(look.live))
        acknowledged_gateways.set(sum(gateway.version >= look.snapshot.version for gateway in look.live))
        urgent = [entry for entry in look.undone if entry.action in _URGENT]
        newest = {entry.feature: entry.snapshot_version for entry in urgent}
        # Experiments that ended are no features, and have the series from then on.
        self._taken_back |= newest.keys()
        for name in {feature.name for feature in look.features} | self._taken_back:
            behind = sum(gateway.version < newest.get(name, 0) for gateway in look.live)
            unacknowledged_gateways.labels(name).set(behind)
        unacknowledged_seconds.set(max((look.time - entry.time for entry in urgent), default=0.0))

    def active(self, snapshot: SealedSnapshot | None) -> None:
        """Note the newest snapshot of a replica that leads; None for one that leads no longer."""
        active.set(snapshot is not None)
        if snapshot is None:
            for series in _OF_FEATURES:
                series.clear()
            self._weighed = set()
        else:
            snapshot_version.set(snapshot.version)
            snapshot_time.set(snapshot.create_time)


class ExperimentMetrics:
    """Series of the experiments that run."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def looked(self, experiments: list[Experiment], now: float) -> None:
        """Take the experiments that run, before they are analysed; none where this replica does not lead."""
        names = {experiment.name for experiment in experiments}
        for name in names - self._shown:
            running_experiments.labels(name).set(1)
            experiment_users.labels(name).set(0)
            analysis_time.labels(name).set(now)
        for name in self._shown - names:
            for series in _OF_EXPERIMENTS:
                series.remove(name)
        self._shown = names

    def analysed(self, experiment: Experiment, findings: Findings, seconds: float) -> None:
        """Take the findings of a run, and the time that they took."""
        experiment_users.labels(experiment.name).set(sum(arm.user_count for arm in findings.arms))
        analysis_time.labels(experiment.name).set(findings.time)
        analysis_seconds.observe(seconds)

    def decided(self, findings: Findings) -> None:
        """Count a verdict that ended a run."""
        verdicts.labels(findings.judgment.verdict.value, findings.judgment.cause.value).inc()

    def failed(self) -> None:
        """Count an analysis that failed."""
        analysis_failures.inc()
