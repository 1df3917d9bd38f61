"""Evidence of requests by arm, added up until it is reported. Pure: no clock, no transport.

Memory is bounded whatever happens to the service that wants the evidence: totals are a few hundred numbers a ramp and
arm, and the hashes of users are kept up to a number, beyond which they are counted as lost. Losing them loses power,
never honesty: it does not depend on the arm.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.experiment.bucketing import Arm
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES, latency_bucket
from services.gateway.rollout.table import FeatureArm
from sluice.rollout.v1 import rollout_pb2 as pb

# Factor by which treatment may be slower than control's P95 before a request counts as slow.
TREATMENT_SLACK = 1.1


class Judgement(enum.Enum):
    """Comparison of the treatment's answer with control's to the same question."""

    WIN = "win"
    LOSS = "loss"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Ending:
    """End of a request."""

    seconds: float
    failed: bool = False
    """True for a fault of ours, not of the caller."""
    timed_out: bool = False
    given_up: bool = False
    """True if the caller left before the answer."""
    empty: bool = False
    """True for an answer without results."""
    idle_stages: frozenset[str] = frozenset()
    """Stages that were asked and did not do their work, as in "rerank"."""
    quality: float | None = None
    """Quality score, 0 to 1; None where the answer was not judged."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both answers to one control request, the treatment's from off the reply's path."""

    overlap: float
    """Share of the first ten results that both have, 0 to 1."""
    judgement: Judgement
    control_quality: float = 0.0
    treatment_quality: float = 0.0
    """0 to 1."""


@dataclass(slots=True)
class BadEvents:
    """Bad events by one guardrail."""

    count: int = 0
    units: set[int] = field(default_factory=set)


@dataclass(slots=True)
class ArmTotals:
    """Totals of one arm of one ramp."""

    feature: str
    ramp_id: str
    arm: Arm
    request_count: int = 0
    units: list[int] = field(default_factory=list)
    """Units that were not reported before."""
    bad: dict[Guardrail, BadEvents] = field(default_factory=dict)
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    judgements: dict[Judgement, int] = field(default_factory=lambda: dict.fromkeys(Judgement, 0))
    overlap_sum: float = 0.0
    quality_sum: float = 0.0
    quality_count: int = 0

    def to_proto(self) -> pb.ArmEvidence:
        """Write the totals for a report."""
        return pb.ArmEvidence(
            feature=self.feature,
            ramp_id=self.ramp_id,
            arm=self.arm.to_proto(),
            request_count=self.request_count,
            units=self.units,
            bad_events=[
                pb.BadEvents(guardrail=guardrail.to_proto(), event_count=bad.count, units=bad.units)
                for guardrail, bad in self.bad.items()
            ],
            latency_counts=self.latency_counts,
            shadow_win_count=self.judgements[Judgement.WIN],
            shadow_loss_count=self.judgements[Judgement.LOSS],
            shadow_tie_count=self.judgements[Judgement.TIE],
            shadow_overlap_sum=self.overlap_sum,
            quality_score_sum=self.quality_sum,
            quality_score_count=self.quality_count,
        )


@dataclass(frozen=True, slots=True)
class Lost:
    """Evidence for which there was no room."""

    requests: int = 0
    units: int = 0


class _Seen:
    """The units of an arm that were reported recently: forgotten by halves, so that memory is bounded.

    A unit that is forgotten is reported once more, which does no harm: it is known at the other end.
    """

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._newer: set[int] = set()
        self._older: set[int] = set()

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def __contains__(self, unit: int) -> bool:
        return unit in self._newer or unit in self._older

    def add(self, unit: int) -> None:
        """Remember a unit."""
        if len(self._newer) >= self._half:
            self._newer, self._older = set(), self._newer
        self._newer.add(unit)


class Evidence:
    """Add up evidence, and hand it over for reports. For one event loop."""

    def __init__(self, *, most_units: int = 200_000, most_seen: int = 10_000, most_arms: int = 1_000) -> None:
        """`most_units` bounds the units that wait for a report, `most_seen` those remembered of each arm,
        `most_arms` the arms that wait."""
        self._most_units = most_units
        self._most_seen = most_seen
        self._most_arms = most_arms
        self._arms: dict[tuple[str, str, Arm], ArmTotals] = {}
        self._seen: dict[tuple[str, str, Arm], _Seen] = {}
        self._waiting_units = 0
        self._lost_requests = 0
        self._lost_units = 0

    def request(self, arms: Iterable[FeatureArm], ending: Ending) -> None:
        """Add a request to every arm that it was in and that is measured."""
        for arm in arms:
            ramp = arm.ramp
            if ramp is None or not ramp.measured:
                continue
            slow = ramp.slow_seconds * (TREATMENT_SLACK if arm.arm is Arm.TREATMENT else 1.0)
            totals = self._totals(arm, arm.arm)
            if totals is None:
                continue
            totals.request_count += 1
            # The time of a caller that left early is not the time of an answer.
            if not ending.given_up or ending.seconds > slow:
                totals.latency_counts[latency_bucket(ending.seconds)] += 1
            seen = self._seen_of(arm)
            if arm.unit not in seen and self._room():
                seen.add(arm.unit)
                totals.units.append(arm.unit)
            if ending.failed:
                self._bad(totals, Guardrail.ERRORS, arm.unit)
            if ending.seconds > slow or (ending.timed_out and slow < math.inf):
                self._bad(totals, Guardrail.LATENCY, arm.unit)
            if ending.idle_stages & ramp.stages:
                self._bad(totals, Guardrail.EXPOSURE, arm.unit)
            if ending.empty:
                self._bad(totals, Guardrail.EMPTY_RESULTS, arm.unit)
            if ending.quality is not None:
                totals.quality_sum += ending.quality
                totals.quality_count += 1

    def pair(self, arm: FeatureArm, pair: Pair) -> None:
        """Add a shadow pair of a control request: counts to control, the worse answer to its own arm."""
        control, treatment = self._totals(arm, Arm.CONTROL), self._totals(arm, Arm.TREATMENT)
        if control is None or treatment is None:
            return
        control.overlap_sum += pair.overlap
        control.judgements[pair.judgement] += 1
        if pair.judgement is not Judgement.TIE:
            self._bad(treatment if pair.judgement is Judgement.LOSS else control, Guardrail.QUALITY, arm.unit)
        for totals, quality in ((control, pair.control_quality), (treatment, pair.treatment_quality)):
            totals.quality_sum += quality
            totals.quality_count += 1

    def take(self) -> list[ArmTotals]:
        """Take all that was added since the last time, possibly nothing."""
        taken = list(self._arms.values())
        self._arms = {}
        self._waiting_units = 0
        return taken

    def take_lost(self) -> Lost:
        """Take the number of requests and units lost since the last time."""
        lost = Lost(self._lost_requests, self._lost_units)
        self._lost_requests = self._lost_units = 0
        return lost

    def keep_only(self, ramp_ids: Iterable[str]) -> None:
        """Forget the units of ramps that are over."""
        kept = set(ramp_ids)
        self._seen = {key: seen for key, seen in self._seen.items() if key[1] in kept}

    def _totals(self, arm: FeatureArm, side: Arm) -> ArmTotals | None:
        key = (arm.feature, arm.ramp_id, side)
        totals = self._arms.get(key)
        if totals is None:
            if len(self._arms) >= self._most_arms:
                self._lost_requests += 1
                return None
            totals = self._arms[key] = ArmTotals(*key)
        return totals

    @property
    def remembered(self) -> int:
        """Number of units remembered as reported, over all arms."""
        return sum(map(len, self._seen.values()))

    def _seen_of(self, arm: FeatureArm) -> _Seen:
        key = (arm.feature, arm.ramp_id, arm.arm)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen(self._most_seen)
        return seen

    def _bad(self, totals: ArmTotals, guardrail: Guardrail, unit: int) -> None:
        bad = totals.bad.setdefault(guardrail, BadEvents())
        bad.count += 1
        if unit not in bad.units and self._room():
            bad.units.add(unit)

    def _room(self) -> bool:
        if self._waiting_units >= self._most_units:
            self._lost_units += 1
            return False
        self._waiting_units += 1
        return True


def lost_with(totals: Sequence[ArmTotals]) -> Lost:
    """Number of requests and units lost with totals that are given up."""
    return Lost(
        sum(arm.request_count for arm in totals),
        sum(len(arm.units) + sum(len(bad.units) for bad in arm.bad.values()) for arm in totals),
    )
