"""Series of experiments, and log lines about their analyses.

`experiment` is a label because operators name experiments, and no more than a hundred run at a time.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from services.rollout.experiments.experiments import Cause, Experiment, Verdict
from services.rollout.experiments.findings import Findings

running = Gauge("sluice_experiment_running", "1 for an experiment that runs.", ["experiment"])
users = Gauge(
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

_OF_EXPERIMENTS = (running, users, analysis_time)


class ExperimentMetrics:
    """Series of the experiments that run."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def looked(self, experiments: list[Experiment], now: float) -> None:
        """Take the experiments that run, before they are analysed; none where this replica does not lead."""
        names = {experiment.name for experiment in experiments}
        for name in names - self._shown:
            running.labels(name).set(1)
            users.labels(name).set(0)
            analysis_time.labels(name).set(now)
        for name in self._shown - names:
            for series in _OF_EXPERIMENTS:
                series.remove(name)
        self._shown = names

    def analysed(self, experiment: Experiment, findings: Findings, seconds: float) -> None:
        """Take the findings of a run, and the time that they took."""
        users.labels(experiment.name).set(sum(arm.user_count for arm in findings.arms))
        analysis_time.labels(experiment.name).set(findings.time)
        analysis_seconds.observe(seconds)

    def decided(self, findings: Findings) -> None:
        """Count a verdict that ended a run."""
        verdicts.labels(findings.judgment.verdict.value, findings.judgment.cause.value).inc()

    def failed(self) -> None:
        """Count an analysis that failed."""
        analysis_failures.inc()
