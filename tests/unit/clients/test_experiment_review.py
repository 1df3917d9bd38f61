from __future__ import annotations

import dataclasses
import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from sluice_cli.experiment import report as writer
from sluice_cli.experiment import views
from sluice_cli.experiment.ladder import NOT_DONE, ladder, same_change, verdict_of
from sluice_cli.experiment.plots import plots
from sluice_cli.experiment.readings import Told, readings
from sluice_cli.experiment.review import review
from sluice_client import (
    ExperimentMetric,
    ExperimentPlan,
    ExperimentReport,
    ExperimentState,
    ExperimentStatus,
    MetricFinding,
    Verdict,
)
from tests.unit.clients.experiment_examples import (
    COMPARED,
    END,
    INTERLEAVED,
    START,
    not_started,
    points,
    ramped,
    report,
)

NOW = END + timedelta(hours=1)
VERDICTS = [Verdict.SHIP, Verdict.STOP, Verdict.INCONCLUSIVE, Verdict.GO_ON]


def example(plan: ExperimentPlan, verdict: Verdict) -> ExperimentReport:
    return report(plan, verdict, running=verdict is Verdict.GO_ON)


def told(found: ExperimentReport) -> dict[ExperimentMetric, Told]:
    return {one.finding.metric: one.told for one in readings(found.experiment, found.newest)}


def test_an_interval_is_read_with_the_sense_of_its_metric() -> None:
    shipped = told(example(COMPARED, Verdict.SHIP))
    assert shipped[ExperimentMetric.RECIPROCAL_RANK] is Told.BETTER
    assert shipped[ExperimentMetric.LATENCY] is Told.NOT_WORSE  # 31 % slower, and 50 % are allowed
    assert shipped[ExperimentMetric.COST] is Told.WORSE
    assert shipped[ExperimentMetric.SATISFACTION] is Told.OPEN
    stopped = told(example(COMPARED, Verdict.STOP))
    assert stopped[ExperimentMetric.RECIPROCAL_RANK] is Told.WORSE
    assert told(example(COMPARED, Verdict.INCONCLUSIVE))[ExperimentMetric.RECIPROCAL_RANK] is Told.AS_GOOD
    assert told(example(INTERLEAVED, Verdict.SHIP)) == {ExperimentMetric.PREFERENCE: Told.BETTER}


def test_the_metric_that_decides_comes_first_and_guarded_ones_next() -> None:
    found = example(COMPARED, Verdict.SHIP)
    roles = [(one.finding.metric.value, one.role) for one in readings(found.experiment, found.newest)]
    assert roles[:3] == [("reciprocal_rank", "decides"), ("abandonment", "guarded"), ("latency", "guarded")]
    assert {role for _, role in roles[3:]} == {""}


def test_a_guardrail_that_is_broken_is_told_as_worse() -> None:
    found = example(COMPARED, Verdict.STOP)
    slow = MetricFinding(ExperimentMetric.LATENCY, "rerank", 0.1, 0.17, 0.07, 0.06, 0.08, 4000, 0.0)
    newest = dataclasses.replace(found.points[-1], metrics=[slow])
    (one,) = readings(found.experiment, newest)
    assert (one.told, one.change, one.interval) == (Told.WORSE, "+70.0 %", "+60.0 % to +80.0 %")
    assert one.limit_words == "may be worse by 50 %"


def test_too_few_users_are_no_interval() -> None:
    found = example(INTERLEAVED, Verdict.GO_ON)
    early = dataclasses.replace(found.points[0].metrics[0], lower=-math.inf, upper=math.inf)
    (one,) = readings(found.experiment, dataclasses.replace(found.points[0], metrics=[early]))
    assert (one.told, one.interval) == (Told.TOO_EARLY, "")


@pytest.mark.parametrize("plan", [INTERLEAVED, COMPARED], ids=lambda plan: plan.method)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_report_says_what_it_came_to_in_the_first_line(plan: ExperimentPlan, verdict: Verdict) -> None:
    found = review(example(plan, verdict), [], [], NOW)
    starts = {
        Verdict.SHIP: "Ship rerank.",
        Verdict.STOP: "Keep standard, not rerank.",
        Verdict.INCONCLUSIVE: "A difference that matters is excluded.",
        Verdict.GO_ON: "Not decided yet.",
    }
    assert found.headline.startswith(starts[verdict])
    assert " % (between " in found.headline
    assert found.verdict == verdict.replace("_", " ")
    assert found.next_steps
    assert found.hypothesis == plan.hypothesis


def test_an_arm_that_hurts_and_arms_that_cannot_be_compared_are_kept_apart() -> None:
    better = example(COMPARED, Verdict.SHIP)
    slow = dataclasses.replace(better.experiment, verdict=Verdict.STOP, reasons=["guardrail latency: 31 of 37 users"])
    told = review(dataclasses.replace(better, experiment=slow), [], [], NOW)
    assert told.headline.startswith(
        "Keep standard, not rerank: it hurts. Reciprocal rank of rerank against standard: +5.90"
    )
    uneven = dataclasses.replace(slow, arm="", reasons=["users do not fall into the arms as they must"])
    told = review(dataclasses.replace(better, experiment=uneven), [], [], NOW)
    assert told.headline == "Keep standard: the arms cannot be compared."


def test_an_experiment_that_ran_out_of_time_is_not_said_to_have_excluded_anything() -> None:
    found = example(INTERLEAVED, Verdict.GO_ON)
    over = dataclasses.replace(
        found.experiment,
        state=ExperimentState.ENDED,
        end_time=END,
        verdict=Verdict.INCONCLUSIVE,
        reasons=["time is over"],
    )
    told = review(dataclasses.replace(found, experiment=over), [], [], NOW)
    assert told.headline.startswith("It was ended before it was decided.")
    assert told.reasons == ["time is over"]


@pytest.mark.parametrize("state", list(ExperimentState))
@pytest.mark.parametrize("verdict", [*VERDICTS, Verdict.UNKNOWN, None])
def test_a_report_can_be_had_at_any_time(state: ExperimentState, verdict: Verdict | None) -> None:
    empty = not_started()
    experiment = dataclasses.replace(empty.experiment, state=state, verdict=verdict)
    text = writer.markdown_of(writer.Material(dataclasses.replace(empty, experiment=experiment)))
    assert "There are no findings yet." in text
    assert plots(empty) == []
    status = ExperimentStatus(experiment, None)
    assert shown(views.status_view(status, NOW))


def test_a_report_tells_the_story_to_somebody_who_was_not_there() -> None:
    found = review(example(COMPARED, Verdict.SHIP), [], [], NOW)
    said = " ".join(found.summary)
    for part in (
        "had one configuration all the time: standard, or rerank",
        "20 % of all users",
        "11 d 5 h",
        "of 2 % or",
    ):
        assert part in said
    assert [(arm.name, arm.flags) for arm in found.arms] == [
        ("standard", "nothing: as users have it now"),
        ("rerank", "rerank on, rerank candidate count 50"),
    ]
    assert dict(found.figures)["Users"] == "44,208"
    assert {row.guardrail: row.told for row in found.guards}["users in each arm"] == "holds"
    mixed = review(example(INTERLEAVED, Verdict.SHIP), [], [], NOW)
    assert mixed.arms[-1].name == "both"
    assert "of one arm alone" in mixed.arms[-1].failed


def test_the_ladder_has_every_step_with_its_evidence_and_verdict() -> None:
    mixed, compared = example(INTERLEAVED, Verdict.SHIP), example(COMPARED, Verdict.GO_ON)
    rungs = ladder(mixed, [compared.experiment], [ramped()])
    assert [(rung.step, rung.verdict) for rung in rungs] == [
        ("offline", "better"),
        ("replay", "open"),
        ("shadow", "not worse"),
        ("interleave", "better"),
        ("A/B", "going on"),
        ("ramp", "going on"),
    ]
    evidence = {rung.step: rung.evidence for rung in rungs}
    assert evidence["offline"].startswith("nDCG@10 0.721")
    assert evidence["shadow"] == "quality 0.710 against 0.660; 74 % of the first results are the same"
    assert evidence["A/B"].startswith("closer-look-ab: ")
    assert evidence["ramp"] == "closer-look-ramp: ramping, reached 10 % of the users"
    bare = ladder(not_started(), [], [])
    assert {rung.verdict for rung in bare} == {NOT_DONE}
    assert [rung.step for rung in bare] == ["offline", "replay", "shadow", "interleave", "A/B", "ramp"]


def test_experiments_belong_together_when_they_set_the_same_flags() -> None:
    mixed, compared = example(INTERLEAVED, Verdict.SHIP).experiment, example(COMPARED, Verdict.SHIP).experiment
    assert same_change(mixed, compared)
    assert not same_change(mixed, mixed)
    other = dataclasses.replace(compared, plan=dataclasses.replace(COMPARED, arms=COMPARED.arms[:1]))
    assert not same_change(mixed, other)


@pytest.mark.parametrize(
    ("result", "verdict"), [('{"verdict": "as_good"}', "as good"), ("{}", "open"), ("[1]", "open"), ("no JSON", "open")]
)
def test_attached_evidence_may_bring_its_verdict(result: str, verdict: str) -> None:
    assert verdict_of(result) == verdict


def test_a_page_needs_nothing_else_and_escapes_what_people_wrote(tmp_path: Path) -> None:
    found = example(COMPARED, Verdict.SHIP)
    plan = dataclasses.replace(COMPARED, hypothesis="<script>alert(1)</script> | & <b>")
    hostile = dataclasses.replace(found, experiment=dataclasses.replace(found.experiment, plan=plan))
    (written,) = writer.write(writer.Material(hostile), html=tmp_path / "deep" / "page.html")
    page = written.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 4
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_markdown_lies_beside_its_plots(tmp_path: Path) -> None:
    written = writer.write(writer.Material(example(COMPARED, Verdict.STOP)), markdown=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures == [f"report-{name}.svg" for name in ("effect", "metrics", "users", "guardrails")]
    assert {path.name for path in written} == {"report.md", *pictures}
    for picture in pictures:
        ElementTree.parse(tmp_path / picture)  # ours
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_a_picture_without_finite_intervals_is_left_out() -> None:
    found = example(INTERLEAVED, Verdict.GO_ON)
    few = dataclasses.replace(found, points=points(INTERLEAVED, 40, 1.0, count=3))
    assert [plot.name for plot in plots(few)] == ["users", "guardrails"]


def shown(view: object, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_the_status_shows_users_effects_and_evidence() -> None:
    found = example(COMPARED, Verdict.SHIP)
    text = shown(views.status_view(ExperimentStatus(found.experiment, found.newest), NOW), 160)
    for part in (
        "closer-look-ab  ended  ship rerank",
        "22,111",
        "+5.90 %",
        "+3.91 % to +7.88 %",
        "may be worse by 50 %",
    ):
        assert part in text, part
    assert "users in each arm" in text
    running = example(INTERLEAVED, Verdict.GO_ON)
    text = shown(views.status_view(ExperimentStatus(running.experiment, running.newest), START + timedelta(days=3)))
    assert "running" in text
    assert "for 3 d of at most 14 d" in text


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_interval_is_drawn_around_zero(verdict: Verdict) -> None:
    found = example(COMPARED, verdict)
    for one in readings(found.experiment, found.newest):
        bar = views.interval_bar(one).plain
        assert len(bar) == views.BAR_WIDTH
        assert bar.count("●") == 1
        right = bar.index("●") > views.BAR_WIDTH // 2
        assert right == (one.finding.difference > 0) or bar.index("●") == views.BAR_WIDTH // 2


def test_a_plan_is_shown_in_words() -> None:
    text = shown(views.plan_view(COMPARED), 160)
    for part in ("decides: reciprocal rank; 2 % matters", "latency by 50 %, abandonment by 2 %", "after 28 d", "20 %"):
        assert part in text
    assert "results of both in each answer" in shown(views.plan_view(INTERLEAVED), 160)


def test_the_time_of_a_report_is_that_of_this_machine() -> None:
    assert review(not_started(), [], [], datetime.now(UTC)).made
