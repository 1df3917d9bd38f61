from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sluice_cli import calls
from sluice_cli.experiment.plans import PLANS
from sluice_cli.main import app


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["experiment", "plan", *arguments])


def needs(*arguments: str) -> dict[float, int]:
    """Users by the effect that they find."""
    result = plan(*arguments, "--json")
    assert result.exit_code == calls.DONE, result.stderr
    return {round(need["minimum_effect"], 6): need["users"] for need in json.loads(result.stdout)["needs"]}


def test_half_the_effect_needs_about_four_times_the_users() -> None:
    found = needs("ab", "--mean", "0.41", "--deviation", "0.39")
    assert list(found) == [0.04, 0.02, 0.01]
    assert 3.5 < found[0.01] / found[0.02] < 5.5


def test_interleaving_needs_fewer_users_than_one_arm_each() -> None:
    mixed = needs("interleave", "--credited", "0.6")
    assert mixed[0.05] < needs("ab", "--mean", "0.41", "--deviation", "0.39")[0.02]
    assert needs("interleave", "--credited", "0.3")[0.05] == pytest.approx(2 * mixed[0.05], rel=0.01)


def test_a_rate_needs_no_deviation_and_other_metrics_do(tmp_path: Path) -> None:
    clicks = tmp_path / "clicks.yaml"
    text = PLANS.template_text("ab").replace("primary_metric: reciprocal_rank", "primary_metric: click_rate")
    clicks.write_text(text)
    assert needs(str(clicks), "--mean", "0.58")[0.02] > 1000
    assert "is no rate" in plan(str(clicks), "--mean", "58").stderr
    refused = plan("ab", "--mean", "0.41")
    assert refused.exit_code == calls.WRONG_COMMAND_LINE
    assert "--deviation" in refused.stderr
    assert "--measured" in plan("ab").stderr


def test_days_come_from_new_users_a_day_and_the_share_of_the_plan() -> None:
    result = plan("interleave", "--credited", "0.6", "--users-per-day", "10000", "--json")
    found = json.loads(result.stdout)
    for need in found["needs"]:
        assert need["days"] == pytest.approx(need["users"] / 10_000 / 0.1)


def test_an_effect_that_needs_longer_than_the_plan_gives_is_told() -> None:
    result = plan("ab", "--mean", "0.41", "--deviation", "0.39", "--users-per-day", "1000")
    assert result.exit_code == calls.NEEDS_A_LOOK
    assert "more than the horizon of 28 d" in " ".join(result.stderr.split())


def test_an_arm_of_three_has_a_third_of_the_users(tmp_path: Path) -> None:
    three = tmp_path / "three.yaml"
    third = "  - {name: wide, overrides: {rerank: true, rerank_candidate_count: 100}}\nlayer: default"
    three.write_text(PLANS.template_text("ab").replace("layer: default", third, 1))
    said = plan(str(three), "--mean", "0.41", "--deviation", "0.39")
    assert "3 arms need 1.5 times as many" in " ".join(said.stdout.split())
