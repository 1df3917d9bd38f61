from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS
from services.experiment.flags import Overrides
from services.rollout.features import Feature, FeatureState, check_feature
from services.rollout.snapshots import snapshot_of

FEATURE = Feature("rerank-v1", "", "rerank-v1", Overrides(rerank=True, rerank_candidate_count=50))
BROKEN = [
    ("name", replace(FEATURE, name="")),
    ("name", replace(FEATURE, name="Rerank")),
    ("name", replace(FEATURE, name="-rerank")),
    ("name", replace(FEATURE, name="a" * 65)),
    ("name", replace(FEATURE, name="a/../b")),
    ("name", replace(FEATURE, name="a\n")),
    ("salt", replace(FEATURE, salt=" ")),
    ("salt", replace(FEATURE, salt="a\x1fb")),
    ("salt", replace(FEATURE, salt="ü" * 65)),
    ("features", replace(FEATURE, overrides=Overrides())),
    ("features", replace(FEATURE, overrides=Overrides(dense=False, lexical=False))),
    ("treatment_ppm", replace(FEATURE, treatment_ppm=-1)),
    ("treatment_ppm", replace(FEATURE, treatment_ppm=BUCKETS + 1)),
]


def test_a_feature_that_switches_something_is_taken() -> None:
    check_feature(FEATURE)


@pytest.mark.parametrize(("field", "broken"), BROKEN)
def test_a_feature_that_makes_no_sense_is_refused_by_the_name_of_its_field(field: str, broken: Feature) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_feature(broken)
    assert refused.value.field == field


@pytest.mark.parametrize("broken", [broken for _, broken in BROKEN])
def test_a_broken_feature_is_left_out_alone(broken: Feature) -> None:
    first, last = replace(FEATURE, name="first", treatment_ppm=7), replace(FEATURE, name="last")
    served, quarantined = snapshot_of([first, broken, last], {})
    assert [feature.name for feature in served] == ["first", "last"]
    assert [feature.name for feature in quarantined] == [broken.name]


@pytest.mark.parametrize("broken", [broken for _, broken in BROKEN])
def test_a_kill_goes_through_whatever_else_is_wrong(broken: Feature) -> None:
    served, _ = snapshot_of([replace(broken, state=FeatureState.KILLED)], {})
    assert [(feature.killed, feature.treatment_ppm) for feature in served] == [(True, 0)]


@given(share=st.integers(0, BUCKETS), state=st.sampled_from(FeatureState))
def test_only_what_is_watched_has_a_control_and_a_lease(share: int, state: FeatureState) -> None:
    (served,), _ = snapshot_of([replace(FEATURE, treatment_ppm=share, state=state, run=3)], {3: 0.25})
    watched = state in (FeatureState.RAMPING, FeatureState.HELD) and share > 0
    assert served.leased == watched
    assert served.control_ppm == (min(share, BUCKETS - share) if watched else 0)
    assert served.treatment_ppm + served.control_ppm <= BUCKETS
    assert served.killed == (state is FeatureState.KILLED)
