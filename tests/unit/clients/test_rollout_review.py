from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sluice_cli.calls import Problem
from sluice_cli.rollout import report
from sluice_cli.rollout.intervals import difference, latencies, rate
from sluice_cli.rollout.plots import plots
from sluice_cli.rollout.review import MET, MISSED, OPEN, review
from sluice_client import Feature, FeatureState, LatencyBucket, RolloutReport
from tests.unit.clients.rollout_examples import EDGES, START, histogram, rolled_back

NOW = START + timedelta(hours=4)


def not_started() -> RolloutReport:
    feature = dataclasses.replace(rolled_back().feature, state=FeatureState.READY, plan=None, description="")
    return RolloutReport(feature=feature, history=[], steps=[])


def test_wilsons_interval_is_that_of_the_books() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    for events, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = rate(events, trials)
        assert found is not None
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert rate(0, 0) is None


def test_newcombes_difference_is_that_of_his_paper() -> None:
    # Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, method 10.
    for (ours, of_ours), (theirs, of_theirs), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ):
        treatment, control = rate(ours, of_ours), rate(theirs, of_theirs)
        assert treatment is not None
        assert control is not None
        found = difference(treatment, control)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_percentiles_of_a_histogram_are_near_those_of_the_values_and_their_interval_covers() -> None:
    covered = 0
    for seed in range(60):
        values = np.random.default_rng(seed).lognormal(np.log(0.1), 0.45, 1500)
        places = np.searchsorted(EDGES, values)
        buckets = [
            LatencyBucket(EDGES[place - 1] if place else 0.0, EDGES[place], int(count))
            for place, count in zip(*np.unique(places, return_counts=True), strict=True)
        ]
        found = latencies(buckets, 1)
        assert found is not None
        estimate = found.percentile(95)
        assert estimate.value == pytest.approx(np.percentile(values, 95), rel=0.05)
        covered += estimate.low <= 0.1 * np.exp(0.45 * 1.6449) <= estimate.high
    assert covered >= 53  # of 57 to be expected


def test_an_increase_is_seen_where_there_is_one_and_not_where_there_is_none() -> None:
    slow, usual, same = (latencies(histogram(3000, median), seed) for seed, median in ((1, 0.15), (2, 0.1), (3, 0.1)))
    assert slow is not None
    assert usual is not None
    assert same is not None
    assert slow.increase(usual, 95).low > 0.3
    assert same.increase(usual, 95).low < 0 < same.increase(usual, 95).high
    assert latencies([], 1) is None


def test_a_percentile_with_hardly_a_request_beyond_it_has_no_interval() -> None:
    few, enough = latencies(histogram(90, 0.1), 1), latencies(histogram(120, 0.1), 1)
    assert few is not None
    assert enough is not None
    assert (few.tells(50), few.tells(95), enough.tells(95), enough.tells(99)) == (True, False, True, False)


def test_a_review_tells_the_story_in_order() -> None:
    found = review(rolled_back(), NOW)
    assert found.title == "Rollout of rerank: rolled back"
    told = " ".join(found.summary)
    by_itself = "Sluice took it back by itself from half"
    for part in ("ann put it on its way", "10 % for 2 h", "at most 50 %", by_itself, "0.42 s"):
        assert part in told
    assert [incident.treated_requests for incident in found.incidents] == ["1,450", "612"]
    assert [incident.exposed for incident in found.incidents] == ["35 min", "15 min"]
    assert dict(found.figures)["Requests with the feature"] == "6,272"
    assert any("rearm" in step for step in found.next_steps)


def test_what_is_allowed_is_met_missed_or_open_by_its_interval() -> None:
    steps = review(rolled_back(), NOW).steps
    verdicts = [{row.measure: row.verdict for row in step.comparisons} for step in steps]
    assert [step["Failed requests"] for step in verdicts] == [MET, MISSED, MISSED]
    assert [step["P95 of latency"] for step in verdicts] == [MET, MET, OPEN]


def test_a_page_needs_nothing_else_and_escapes_what_people_wrote(tmp_path: Path) -> None:
    example = rolled_back()
    feature = dataclasses.replace(example.feature, description="<script>alert(1)</script> | & <b>")
    written = report.write(dataclasses.replace(example, feature=feature), html=tmp_path / "deep" / "page.html")
    page = written[0].read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 3
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_markdown_lies_beside_its_plots(tmp_path: Path) -> None:
    written = report.write(rolled_back(), markdown=tmp_path / "review.md")
    text = (tmp_path / "review.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert pictures == ["review-exposure.svg", "review-evidence.svg", "review-latency.svg"]
    assert {path.name for path in written} == {"review.md", *pictures}
    for picture in pictures:
        ElementTree.parse(tmp_path / picture)  # ours
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_people_cannot_break_a_table_of_markdown() -> None:
    example = rolled_back()
    history = [dataclasses.replace(entry, reason="a | b\n# c *d* \x1b[31m") for entry in example.history]
    text = report.markdown_of(dataclasses.replace(example, history=history))
    assert "a \\| b \\# c \\*d\\*" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("state", list(FeatureState))
def test_a_review_can_be_had_at_any_time(state: FeatureState) -> None:
    empty = not_started()
    feature: Feature = dataclasses.replace(empty.feature, state=state)
    text = report.markdown_of(dataclasses.replace(empty, feature=feature))
    assert "never been started" in text
    assert "Nothing had to be taken back" in text
    assert plots(empty) == []
    whole = rolled_back()
    assert report.markdown_of(dataclasses.replace(whole, feature=dataclasses.replace(whole.feature, state=state)))


def test_a_review_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match="cannot be written"):
        report.write(not_started(), html=tmp_path / "file" / "page.html")
