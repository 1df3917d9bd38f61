from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from services.experiment.bucketing import Arm
from services.experiment.guardrails import Guardrail
from services.experiment.latencies import EDGES, latency_bucket
from services.rollout.evidence import (
    ALPHA,
    ArmTotals,
    latency_percentile,
    log_above,
    log_below,
    log_evidence,
    log_non_inferiority,
    log_sample_ratio,
    weigh,
)

COUNTS = st.integers(0, 100_000)


def by_quadrature(s: int, f: int, t0: float) -> float:
    """The same e-value as its definition says: the likelihood ratio, averaged over the truncated prior."""
    a, b = 20 * t0, 20 * (1 - t0)

    def prior(t: float) -> float:
        return t ** (a - 1) * (1 - t) ** (b - 1)

    def weighted(t: float) -> float:
        return prior(t) * (t / t0) ** s * ((1 - t) / (1 - t0)) ** f

    return math.log(integrate.quad(weighted, t0, 1)[0] / integrate.quad(prior, t0, 1)[0])


@pytest.mark.parametrize(("s", "f", "ratio"), [(1, 0, 1.0), (10, 3, 1.0), (40, 20, 1.0), (30, 5, 2.0), (9, 1, 0.5)])
def test_the_evidence_is_the_likelihood_ratio_averaged_over_the_truncated_prior(s: int, f: int, ratio: float) -> None:
    assert log_evidence(s, f, ratio) == pytest.approx(by_quadrature(s, f, ratio / (1 + ratio)), rel=1e-6)


@given(s=COUNTS, f=COUNTS, ratio=st.floats(0.5, 10))
def test_the_evidence_is_a_number_and_nothing_where_treatment_has_its_share_or_less(
    s: int, f: int, ratio: float
) -> None:
    found = log_evidence(s, f, ratio)
    assert math.isfinite(found)
    if s * (1 + ratio) <= ratio * (s + f) * (1 - 1e-12):
        assert found == 0.0


@given(s=st.integers(0, 400), f=st.integers(0, 400), ratio=st.floats(0.5, 4))
def test_the_wealth_grows_by_nothing_on_average_where_treatment_is_as_bad_as_allowed(
    s: int, f: int, ratio: float
) -> None:
    t0 = ratio / (1 + ratio)
    if s <= t0 * (s + f):
        return  # there it counts as nothing, which is less than it is
    after = np.exp([by_next(s + 1, f, t0), by_next(s, f + 1, t0)])
    assert t0 * after[0] + (1 - t0) * after[1] == pytest.approx(math.exp(by_next(s, f, t0)), rel=1e-6)


def by_next(s: int, f: int, t0: float) -> float:
    """The wealth itself, without being cut to nothing where it says nothing."""
    from scipy.special import betaincc, betaln  # noqa: PLC0415

    a, b = 20 * t0, 20 * (1 - t0)
    grown = betaln(a + s, b + f) - betaln(a, b) - s * math.log(t0) - f * math.log1p(-t0)
    return float(grown + math.log(betaincc(a + s, b + f, t0)) - math.log(betaincc(a, b, t0)))


@given(s=st.integers(0, 1000), f=st.integers(0, 1000))
def test_one_more_bad_event_of_treatment_never_speaks_for_it(s: int, f: int) -> None:
    assert max(0.0, log_evidence(s + 1, f)) >= max(0.0, log_evidence(s, f)) - 1e-9
    assert log_non_inferiority(s + 1, f, 2.0) <= log_non_inferiority(s, f, 2.0) + 1e-9


@given(s=st.integers(0, 1000), f=st.integers(0, 1000), ratio=st.sampled_from((1.0, 1.5, 2.0)))
def test_evidence_for_more_than_a_ratio_and_for_less_never_stand_together(s: int, f: int, ratio: float) -> None:
    limit = math.log(1 / ALPHA)
    assert not (log_evidence(s, f, ratio) >= limit and log_non_inferiority(s, f, ratio) >= limit)


def test_a_feature_may_be_shown_to_be_worse_and_yet_not_by_so_much_that_promotion_forbids_it() -> None:
    limit = math.log(1 / ALPHA)
    assert log_evidence(469, 383) >= limit
    assert log_non_inferiority(469, 383, 1.5) >= limit  # a breach is decided upon first


def test_an_array_of_counts_is_weighed_as_each_of_them() -> None:
    s, f = np.array([0, 5, 50]), np.array([5, 0, 20])
    assert log_evidence(s, f).tolist() == pytest.approx([log_evidence(*pair) for pair in zip(s, f, strict=True)])


def test_where_treatment_has_more_users_it_may_have_more_bad_events() -> None:
    assert log_evidence(190, 10, exposure=19.0) == 0.0
    assert log_evidence(190, 10) > math.log(1 / ALPHA)
    assert log_evidence(199, 1, exposure=3.0) > math.log(1 / ALPHA)


def test_a_limit_is_passed_when_far_more_is_bad_than_it_allows() -> None:
    assert log_above(20, 980, 0.02) == 0.0
    assert log_above(80, 920, 0.02) > math.log(1000)
    assert log_above(10, 0, 0.02) > math.log(1000)
    assert log_below(0, 10_000, 0.001) > math.log(60)
    assert log_below(20, 10_000, 0.001) == 0.0


@given(n=st.integers(0, 100_000))
def test_units_that_fall_one_to_one_are_no_mismatch(n: int) -> None:
    assert log_sample_ratio(n, n) <= 0.0


def test_missing_units_are_a_mismatch_on_either_side() -> None:
    threshold = math.log(1000)
    assert log_sample_ratio(5000, 4000) > threshold
    assert log_sample_ratio(4000, 5000) > threshold
    assert log_sample_ratio(5000, 4950) < threshold
    assert log_sample_ratio(9500, 500, exposure=19.0) < threshold


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_a_percentile_is_known_to_within_a_tenth(percent: int) -> None:
    latencies = np.random.default_rng(7).lognormal(-2.5, 0.6, 20_000)
    counts = [0] * (len(EDGES) + 1)
    for seconds in latencies:
        counts[latency_bucket(float(seconds))] += 1
    assert latency_percentile(counts, percent) == pytest.approx(np.percentile(latencies, percent), rel=0.1)


def test_a_percentile_of_nothing_is_unknown_and_the_open_bucket_is_its_edge() -> None:
    assert latency_percentile([0] * (len(EDGES) + 1), 95) is None
    assert latency_percentile([0] * len(EDGES) + [5], 95) == EDGES[-1]


def arms(treatment: ArmTotals, control: ArmTotals) -> dict[Arm, ArmTotals]:
    return {Arm.TREATMENT: treatment, Arm.CONTROL: control}


def weighed(treatment: ArmTotals, control: ArmTotals, *guardrails: Guardrail):
    return weigh(arms(treatment, control), guardrails, allowed_ratio=1.0, non_inferiority_ratio=2.0, exposure=1.0)


def test_alpha_is_split_over_the_guardrails() -> None:
    rows = weighed(ArmTotals(), ArmTotals(), *list(Guardrail)[:3])
    assert [row.log_threshold for row in rows] == [pytest.approx(math.log(3 / 0.05))] * 3


def test_what_hardly_ever_goes_wrong_is_shown_by_its_rareness_once_enough_was_seen() -> None:
    few, many = ArmTotals(request_count=2_000), ArmTotals(request_count=20_000)
    assert not weighed(few, few, Guardrail.EMPTY_RESULTS)[0].shown
    assert weighed(many, many, Guardrail.EMPTY_RESULTS)[0].shown


def test_only_first_bad_events_are_evidence() -> None:
    loud = ArmTotals(request_count=1000, event_counts={Guardrail.ERRORS: 500}, first_counts={Guardrail.ERRORS: 1})
    calm = ArmTotals(request_count=1000, event_counts={Guardrail.ERRORS: 1}, first_counts={Guardrail.ERRORS: 1})
    assert not weighed(loud, calm, Guardrail.ERRORS)[0].breached
