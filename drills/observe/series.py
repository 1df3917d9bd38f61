"""Verdicts on the series that stages declare: each has to move."""

from __future__ import annotations

from dataclasses import dataclass

from drills.observe.prometheus import Prometheus
from tools.metrics_table import Series, declared

# What one gateway and one rollout service that are in order do not move; their own tests do (tests/contract,
# tests/unit/reasoner, tests/integration/test_rollout* and test_feedback*), and the drill of experiments. Nor has the
# platform TLS (tests/contract/test_tls.py).
STILL = (
    "qdrant_engine_",
    "reasoner_",
    "sluice_answer",
    "sluice_audit_",
    "sluice_quota_",
    "sluice_certificate_expiry_timestamp_seconds",
    "sluice_experiment_",
    "sluice_feedback_",
    "sluice_log_lines_dropped_total",
    "sluice_precision_refused",
    "sluice_rollout_override_problems",
    "sluice_rollout_snapshots_refused_total",
    "sluice_rollout_quarantined",
    "sluice_rollout_locally_killed",
    "sluice_rollout_evidence_lost_total",
    "sluice_rollout_feedback_",
    "sluice_rollout_late_evidence_total",
    "sluice_rollout_sample_ratio_mismatch",
    "sluice_rollout_unacknowledged",
)
# What says something by being there.
_CONSTANT = (
    "_info",
    "qdrant_pool_size",
    "qdrant_nodes",
    "qdrant_nodes_up",
    "sluice_message_budget_bytes",
    "sluice_rollout_log_threshold",
    "sluice_rollout_active",
    "sluice_rollout_live_gateways",
    "sluice_rollout_acknowledged_gateways",
)


@dataclass(frozen=True)
class Verdict:
    """Verdict on one series."""

    name: str
    ok: bool
    seen: str


async def verdicts(prometheus: Prometheus, window: str) -> list[Verdict]:
    """One verdict for every series, over a time such as `10m`."""
    return [
        await _verdict(prometheus, series, f"[{window}]")
        for group in declared().values()
        for series in group
        if not series.name.startswith(STILL)
    ]


async def _verdict(prometheus: Prometheus, series: Series, window: str) -> Verdict:
    if series.kind in {"counter", "histogram"}:
        name = series.name + ("_count" if series.kind == "histogram" else "")
        grown = await prometheus.total(f"max_over_time({name}{window})")
        return Verdict(series.name, grown > 0, f"{grown:g}")
    if series.name.endswith(_CONSTANT):
        there = await prometheus.query(f"last_over_time({series.name}{window}) > 0")
        return Verdict(series.name, bool(there), f"{len(there)} series")
    lowest = await prometheus.query(f"min(min_over_time({series.name}{window}))")
    highest = await prometheus.query(f"max(max_over_time({series.name}{window}))")
    if not (lowest and highest):
        return Verdict(series.name, ok=False, seen="no data")
    low, high = lowest[0].value, highest[0].value
    return Verdict(series.name, high > low, f"{low:g} to {high:g}")
