from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from sluice_cli.calls import Problem
from sluice_cli.experiment.plans import PLANS
from sluice_client import (
    ExperimentArm,
    ExperimentMethod,
    ExperimentMetric,
    ExperimentPlan,
    Features,
    MetricGuardrail,
    features,
)

AB, INTERLEAVE = PLANS.template_text("ab"), PLANS.template_text("interleave")
FLAGS = "overrides: {rerank: true, rerank_candidate_count: 50}"
RERANK = features(rerank=True, rerank_candidate_count=50)


def problem(text: str) -> str:
    """The problem that is printed for a wrong plan."""
    with pytest.raises(Problem) as caught:
        PLANS.parse(text.encode(), "mine.yaml")
    assert "sluice experiment template" in caught.value.remedy
    return caught.value.message


def test_both_ways_to_compare_come_as_templates(tmp_path: Path) -> None:
    assert PLANS.template_names() == ["ab", "interleave"]
    assert PLANS.read("ab").plan() == ExperimentPlan(
        name="closer-look-ab",
        method=ExperimentMethod.AB,
        arms=[ExperimentArm("standard", Features()), ExperimentArm("rerank", RERANK)],
        share_ppm=200_000,
        minimum_effect=0.02,
        hypothesis="The first useful result is higher when a cross-encoder reorders the best 50, and nobody minds the "
        "wait.",
        layer="default",
        primary_metric=ExperimentMetric.RECIPROCAL_RANK,
        guardrails=[
            MetricGuardrail(ExperimentMetric.LATENCY, 0.5),
            MetricGuardrail(ExperimentMetric.ABANDONMENT, 0.02),
        ],
        horizon=timedelta(days=28),
        alpha=0.05,
        history=timedelta(days=7),
    )
    mixed = PLANS.read("interleave").plan()
    assert (mixed.method, mixed.primary_metric, mixed.primary) == (
        ExperimentMethod.INTERLEAVE,
        None,
        ExperimentMetric.PREFERENCE,
    )
    path = tmp_path / "mine.yaml"
    path.write_text(AB)
    assert PLANS.read(str(path)) == PLANS.read("ab")


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (AB, "rerank: true", "rerankk: true", "line 17: arms[1].overrides.rerankk: is not known here"),
        (AB, "count: 50}", "count: 5000}", "line 17: arms[1].overrides.rerank_candidate_count"),
        (AB, "method: ab", "method: abc", "line 12: method: must be ab or interleave"),
        (AB, "share: 20 %", "share: 20", "line 20: share: write it as a percentage with its sign"),
        (AB, "share: 20 %", "share: 0 %", "line 20: share: Input should be greater than 0"),
        (AB, "metric: latency", "metric: recall", "line 24: guardrails[0].metric: must be one of click_rate"),
        (AB, "metric: latency", "metric: reciprocal_rank", "guardrails: reciprocal_rank is watched already"),
        (AB, "metric: abandonment", "metric: latency", "guardrails: latency is watched already"),
        (AB, "metric: latency", "metric: preference", "preference is measured by interleaving alone"),
        (AB, "primary_metric: reciprocal_rank", "primary_metric: preference", "with ab, name another metric"),
        (AB, "horizon: 28 d", "horizon: 28", "line 26: horizon: write it as a time with its unit"),
        (AB, "alpha: 5 %", "alpha: 60 %", "line 27: alpha"),
        (AB, "minimum_effect: 2 %", "minimum_effect: 0 %", "line 22: minimum_effect: Input should be greater than 0"),
        (AB, "hypothesis:", "hypothesys:", "line 10: hypothesis: is missing"),
        (AB, "- name: rerank", "- name: standard", "arms: standard appears more than once"),
        (AB, FLAGS, "overrides: {}", "arms[1].overrides: only the first"),
        (AB, "  - name: standard ", f"  - {{name: other, {FLAGS}}}\n  #", "the same"),
        (AB, "overrides: {rerank: true", "overrides: {dense: false, lexical: false, rerank: true", "are both off"),
        (AB, "# end of plan", "", "its last line is not"),
        (INTERLEAVE, "layer: default", "primary_metric: click_rate\nlayer: default", "measures the preference alone"),
        (INTERLEAVE, "layer: default", "guardrails: [{metric: latency, allowed_change: 1 %}]", "an interleaved answer"),
        (INTERLEAVE, "minimum_effect: 5 %", "minimum_effect: 500 %", "no preference is above 100 %"),
        (
            INTERLEAVE,
            "layer: default",
            "  - {name: third, overrides: {expansion: true}}\nlayer: default",
            "interleaving compares exactly two, not 3",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line_and_field(text: str, old: str, new: str, said: str) -> None:
    assert old in text
    assert said in problem(text.replace(old, new, 1))


def test_several_arms_may_be_compared_with_one_control() -> None:
    text = AB.replace(
        "layer: default", "  - {name: wide, overrides: {rerank: true, rerank_candidate_count: 100}}\nlayer: a", 1
    )
    assert [arm.name for arm in PLANS.parse(text.encode(), "mine.yaml").plan().arms] == ["standard", "rerank", "wide"]
