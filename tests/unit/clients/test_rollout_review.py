from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sluice_cli.calls import Problem
from sluice_cli.rollout import report
from sluice_cli.rollout.plots import plots
from sluice_cli.rollout.review import MET, MISSED, OPEN, review
from sluice_client import Feature, FeatureState, RolloutReport
from tests.unit.clients.rollout_examples import START, rolled_back

NOW = START + timedelta(hours=4)


def not_started() -> RolloutReport:
    feature = dataclasses.replace(rolled_back().feature, state=FeatureState.READY, plan=None, description="")
    return RolloutReport(feature=feature, history=[], steps=[])


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
