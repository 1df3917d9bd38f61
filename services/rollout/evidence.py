"""Evidence against a feature: e-values, which may be looked at after every event. Pure.

Given a bad event, which arm did it come from? Where treatment is no worse than allowed, it is treatment's with a
probability of at most t0 = m / (1 + m). The evidence against that is an e-process: the wealth of somebody who bets
against it and starts with 1. Under it the wealth ever reaches 1 / alpha with a probability of at most alpha (Ville),
however often and whenever one looks. After Lindon & Malek, "Anytime-valid inference for multinomial count data" (2022,
arXiv 2011.03567), one-sided by truncating the beta prior to what lies above t0.

All functions take numbers or numpy arrays, so that what is simulated is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from scipy.special import betaincc, betaln, gammaln

from services.chassis.timing import duration
from services.experiment.bucketing import Arm
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice_statistics.percentiles import histogram_percentile

ALPHA = 0.05
"""Probability of a false alarm of all guardrails together, in a ramp that changes nothing."""
STRICT_ALPHA = 0.001
"""The same for the sample ratio and for each hard limit: waiting does not undo their effect."""
NEGLIGIBLE_RATE = 0.001
"""Rate of bad events below which more of them are not waited for."""
MAX_UNITS = 1_000_000
"""Most units counted in a run, and in each of its guardrails; every test is decided long before."""

_PRIOR_STRENGTH = 20.0
_LOWER_EDGES = (0.0, *EDGES)
_UPPER_EDGES = (*EDGES, math.inf)

Number = Any
"""A number or an array of them: numpy's own types cannot say "the same as came in"."""


def log_evidence(treatment: Number, control: Number, allowed_ratio: float = 1.0, exposure: float = 1.0) -> Number:
    """Log of the e-value against "treatment has at most `allowed_ratio` times control's bad events".

    `treatment` and `control` are counts of first bad events; 0 where they say nothing against it. `exposure` is how
    many times as many users treatment has: 1 up to half of all, and more above, where control is what is left.
    """
    ratio = allowed_ratio * exposure
    return _log_evidence(treatment, control, ratio / (1.0 + ratio))


def log_non_inferiority(treatment: Number, control: Number, ratio: float, exposure: float = 1.0) -> Number:
    """Log of the e-value for "treatment has less than `ratio` times control's bad events": the arms swapped."""
    return _log_evidence(control, treatment, 1.0 / (1.0 + ratio * exposure))


def log_above(bad: Number, good: Number, limit: float) -> Number:
    """Log of the e-value against "at most a share `limit` of requests is bad"."""
    return _log_evidence(bad, good, limit)


def log_below(bad: Number, good: Number, limit: float) -> Number:
    """Log of the e-value against "at least a share `limit` of requests is bad"."""
    return _log_evidence(good, bad, 1.0 - limit)


def log_sample_ratio(treatment: Number, control: Number, exposure: float = 1.0) -> Number:
    """Log of the e-value against "units fall into the two arms by their size"."""
    share = exposure / (1.0 + exposure)
    return log_multinomial((treatment, control), (share, 1.0 - share))


def log_multinomial(counts: Sequence[Number], shares: Sequence[float]) -> Number:
    """Log of the e-value against "units fall into the arms by these shares": the sequential multinomial."""
    prior = [_PRIOR_STRENGTH * share for share in shares]
    rows = zip(prior, counts, shares, strict=True)
    grown = sum(gammaln(one + count) - gammaln(one) - count * math.log(share) for one, count, share in rows)
    return grown + gammaln(sum(prior)) - gammaln(sum(prior) + sum(counts))


def _log_evidence(s: Number, f: Number, t0: float) -> Number:
    a, b = _PRIOR_STRENGTH * t0, _PRIOR_STRENGTH * (1.0 - t0)
    grown = betaln(a + s, b + f) - betaln(a, b) - s * math.log(t0) - f * math.log1p(-t0)
    with np.errstate(divide="ignore"):
        truncated = np.log(betaincc(a + s, b + f, t0)) - np.log(betaincc(a, b, t0))
    found = np.where(np.asarray(s) <= t0 * (np.asarray(s) + np.asarray(f)), 0.0, grown + truncated)
    return found if found.ndim else float(found)


@dataclass(slots=True)
class ArmTotals:
    """Totals of one arm of a run."""

    request_count: int = 0
    unit_count: int = 0
    """Distinct units over all gateways; no more than MAX_UNITS in a run are counted."""
    event_counts: dict[Guardrail, int] = field(default_factory=dict)
    """All bad events."""
    first_counts: dict[Guardrail, int] = field(default_factory=dict)
    """First bad events of a unit: the evidence."""
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    window_counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    """Latencies of the current window alone; the next threshold comes from them."""
    last_request_time: float = 0.0
    """Time of the last report of requests. Seconds since 1970."""
    shadow_win_count: int = 0
    shadow_loss_count: int = 0
    shadow_tie_count: int = 0
    shadow_overlap_sum: float = 0.0
    quality_score_sum: float = 0.0
    quality_score_count: int = 0

    def slower_than(self, seconds: float) -> int:
        """Number of requests that surely took longer: those in buckets that begin there or later."""
        return sum(count for count, lower in zip(self.latency_counts, (0.0, *EDGES), strict=True) if lower >= seconds)

    @property
    def shadow_count(self) -> int:
        """Shadow pairs that were judged."""
        return self.shadow_win_count + self.shadow_loss_count + self.shadow_tie_count

    @property
    def quality_score(self) -> float | None:
        """Mean quality score, where there is one."""
        return self.quality_score_sum / self.quality_score_count if self.quality_score_count else None

    @property
    def shadow_overlap(self) -> float | None:
        """Mean overlap of shadow pairs, where there are any."""
        return self.shadow_overlap_sum / self.shadow_count if self.shadow_count else None


def latency_percentile(counts: Sequence[int], percent: float) -> float | None:
    """Percentile of latencies counted by bucket, in seconds; None without any."""
    found = float(histogram_percentile(counts, _LOWER_EDGES, _UPPER_EDGES, percent)[0])
    return None if math.isnan(found) else found


@dataclass(frozen=True, slots=True)
class GuardrailEvidence:
    """Evidence of one guardrail."""

    guardrail: Guardrail
    treatment_count: int
    control_count: int
    log_evidence: float
    log_threshold: float
    log_non_inferiority: float
    log_non_inferiority_threshold: float

    @property
    def breached(self) -> bool:
        """True if treatment is worse than allowed."""
        return self.log_evidence >= self.log_threshold

    @property
    def shown(self) -> bool:
        """True if treatment is shown not to be worse than allowed for promotion."""
        return self.log_non_inferiority >= self.log_non_inferiority_threshold

    def to_proto(self) -> pb.GuardrailEvidence:
        """Write the evidence of this guardrail."""
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "guardrail"}
        return pb.GuardrailEvidence(guardrail=self.guardrail.to_proto(), **counts)


def weigh(
    arms: Mapping[Arm, ArmTotals],
    guardrails: Sequence[Guardrail],
    *,
    allowed_ratio: float,
    non_inferiority_ratio: float,
    exposure: float,
    alpha: float = ALPHA,
) -> list[GuardrailEvidence]:
    """Weigh the evidence of every guardrail, alpha split over them."""
    threshold = math.log(len(guardrails) / alpha) if guardrails else math.inf
    treatment, control = arms[Arm.TREATMENT], arms[Arm.CONTROL]
    weighed = []
    for guardrail in guardrails:
        bad, other = treatment.first_counts.get(guardrail, 0), control.first_counts.get(guardrail, 0)
        trials = control.shadow_count if guardrail is Guardrail.QUALITY else treatment.request_count
        events = treatment.event_counts.get(guardrail, 0)
        size = 1.0 if guardrail is Guardrail.QUALITY else exposure  # a pair has one of each
        # With very few bad events there is little to compare: that they are rare is shown instead.
        # Half of the wealth is bet on either, and so remains one wealth.
        rare = log_below(events, max(0, trials - events), NEGLIGIBLE_RATE)
        ratio = log_non_inferiority(bad, other, non_inferiority_ratio, size)
        weighed.append(
            GuardrailEvidence(
                guardrail,
                bad,
                other,
                log_evidence(bad, other, allowed_ratio, size),
                threshold,
                float(np.logaddexp(ratio, rare)) - math.log(2.0),
                threshold,
            )
        )
    return weighed


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """Summary of an arm, for operators and the history. Times are seconds."""

    arm: Arm
    request_count: int
    unit_count: int
    event_counts: dict[Guardrail, int]
    p50: float | None
    p95: float | None
    p99: float | None
    quality_score: float | None
    shadow_overlap: float | None
    latency_counts: tuple[int, ...] = ()
    """By bucket; kept for whole runs alone."""

    def to_proto(self) -> pb.ArmTotals:
        """Write the totals of this arm."""
        message = pb.ArmTotals(
            arm=self.arm.to_proto(),
            request_count=self.request_count,
            unit_count=self.unit_count,
            bad_events=[
                pb.BadEventCount(guardrail=guardrail.to_proto(), event_count=count)
                for guardrail, count in self.event_counts.items()
            ],
            quality_score=self.quality_score,
            shadow_overlap=self.shadow_overlap,
        )
        for name in ("p50", "p95", "p99"):
            if (seconds := getattr(self, name)) is not None:
                getattr(message, name).CopyFrom(duration(seconds))
        for place, count in enumerate(self.latency_counts):
            if count:
                bucket = message.latency.add(count=count, lower=duration(EDGES[place - 1] if place else 0.0))
                if place < len(EDGES):
                    bucket.upper.CopyFrom(duration(EDGES[place]))
        return message


def summarize(arm: Arm, totals: ArmTotals, *, with_latencies: bool = False) -> ArmSummary:
    """Summarize an arm's totals."""
    return ArmSummary(
        arm,
        totals.request_count,
        totals.unit_count,
        dict(totals.event_counts),
        latency_percentile(totals.latency_counts, 50),
        latency_percentile(totals.latency_counts, 95),
        latency_percentile(totals.latency_counts, 99),
        totals.quality_score,
        totals.shadow_overlap,
        tuple(totals.latency_counts) if with_latencies else (),
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """The evidence of a run at one moment."""

    guardrails: tuple[GuardrailEvidence, ...] = ()
    arms: tuple[ArmSummary, ...] = ()
