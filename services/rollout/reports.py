"""Reports of gateways: their checks, and how they are added to a run of evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import Arm, arm_of, bucket_of
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES
from services.rollout.decisions import COMPARED, Run
from services.rollout.evidence import MAX_UNITS
from services.rollout.storage.records import Records
from sluice.rollout.v1 import rollout_pb2 as pb

_MOST_REPORTED_UNITS = 100_000
_SUMS = (
    "request_count",
    "shadow_win_count",
    "shadow_loss_count",
    "shadow_tie_count",
    "shadow_overlap_sum",
    "quality_score_sum",
    "quality_score_count",
)


@dataclass(frozen=True, slots=True)
class ArmReport:
    """The events that one gateway saw in one arm of one run since its last report."""

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

    @classmethod
    def from_proto(cls, message: pb.ArmEvidence, field: str) -> Self:
        """Read a report. Raises InvalidArgument, naming the field, for an unknown or doubled guardrail or arm."""
        events: dict[Guardrail, int] = {}
        units: dict[Guardrail, Sequence[int]] = {}
        for place, bad in enumerate(message.bad_events):
            where = f"{field}.bad_events[{place}].guardrail"
            guardrail = Guardrail.from_proto(bad.guardrail, where)
            if guardrail in events:
                raise InvalidArgument(where, "is there twice")
            events[guardrail], units[guardrail] = bad.event_count, bad.units
        return cls(
            feature=message.feature,
            ramp_id=message.ramp_id,
            arm=Arm.from_proto(message.arm, f"{field}.arm"),
            units=message.units,
            event_counts=events,
            bad_units=units,
            latency_counts=message.latency_counts,
            **{name: getattr(message, name) for name in _SUMS},
        )

    @property
    def run(self) -> int:
        """Number of the run that it belongs to; 0 where the id is not one of this service."""
        name, _, number = self.ramp_id.rpartition(".")
        plain = number.isascii() and number.isdigit() and len(number) < 10
        return int(number) if name == self.feature and plain else 0


def add(records: Records, run: Run, report: ArmReport, now: float, no_data_seconds: float) -> None:
    """Add a report to a run. A gap without requests counts as watched for `no_data_seconds` at most."""
    totals = run.arms[report.arm]
    if report.request_count:
        seen = max(run.start_time, *(arm.last_request_time for arm in run.arms.values()))
        run.watched_seconds += min(max(0.0, now - seen), no_data_seconds)
        totals.last_request_time = now
    units = _placed(run, report, report.units)
    if sum(arm.unit_count for arm in run.arms.values()) < MAX_UNITS:
        totals.unit_count += len(records.add_units(run.number, units))
    for guardrail, count in report.event_counts.items():
        totals.event_counts[guardrail] = totals.event_counts.get(guardrail, 0) + count
    for guardrail, bad_units in report.bad_units.items():
        first = totals.first_counts.get(guardrail, 0)
        if sum(arm.first_counts.get(guardrail, 0) for arm in run.arms.values()) < MAX_UNITS:
            # The units of shadow pairs are control's, whichever side was worse.
            placed = bad_units if guardrail is Guardrail.QUALITY else _placed(run, report, bad_units)
            first += len(records.add_bad_units(run.number, guardrail, placed))
        totals.first_counts[guardrail] = first
    for place, count in enumerate(report.latency_counts):
        totals.latency_counts[place] += count
        totals.window_counts[place] += count
    for name in _SUMS:
        setattr(totals, name, getattr(totals, name) + getattr(report, name))


def _placed(run: Run, report: ArmReport, units: Sequence[int]) -> list[int]:
    """Units whose bucket is in the arm that they are reported in: all of them, unless a gateway buckets wrongly."""
    placed = [unit for unit in units if arm_of(bucket_of(unit), run.treatment_ppm, run.control_ppm) is report.arm]
    run.misplaced_unit_count += len(units) - len(placed)
    return placed


def check(where: str, report: ArmReport) -> None:
    """Raise InvalidArgument for impossible counts: the whole report is then dropped, since any part may be wrong."""
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
