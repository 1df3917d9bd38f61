from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sluice_cli.calls import NEEDS_A_LOOK, Problem
from sluice_cli.load import Zipf, closed, opened
from sluice_cli.loadtest import Asked, read_questions, summed
from sluice_cli.main import app
from sluice_client import Arm


def test_the_first_comes_about_r_times_as_often_as_the_rth() -> None:
    zipf = Zipf(range(1, 101), 1.0, random.Random(1))
    drawn = Counter(zipf.draw() for _ in range(40_000))
    for place in (2, 5, 10):
        assert drawn[1] / drawn[place] == pytest.approx(place, rel=0.15)


def test_without_skew_everybody_comes_as_often() -> None:
    zipf = Zipf(range(10), 0.0, random.Random(1))
    drawn = Counter(zipf.draw() for _ in range(20_000))
    assert max(drawn.values()) < 1.2 * min(drawn.values())


async def test_as_many_are_asked_as_were_wanted_and_never_more_at_once() -> None:
    asked = under_way = most = 0

    async def ask() -> None:
        nonlocal asked, under_way, most
        asked += 1
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await closed(ask, requests=57, concurrency=8)
    assert (asked, most) == (57, 8)
    await closed(ask, requests=3, concurrency=100)
    assert asked == 60


async def test_an_open_load_waits_for_all_that_it_asked() -> None:
    ended = 0

    async def ask() -> None:
        nonlocal ended
        await asyncio.sleep(0.01)
        ended += 1

    assert await opened(ask, rate=500, seconds=0.1) == ended > 0


def test_requests_are_summed_by_feature_and_arm() -> None:
    asked = [
        *(Asked("a", 1, 0.01 * number, "OK", arms={"rerank": Arm.TREATMENT}) for number in range(1, 101)),
        Asked("b", 1, 0.5, "OK", degraded=True, empty=True, snapshot_version=3, arms={"rerank": Arm.CONTROL}),
        Asked("c", 1, 9.0, "INTERNAL BROKEN"),
    ]
    found = summed(asked, 10.0, {"error rate": 0.02, "P95 in ms": 900})
    treated, control = found.arms["rerank"]["treatment"], found.arms["rerank"]["control"]
    assert (treated.requests, treated.users) == (100, 1)
    assert (treated.p50_ms, treated.p95_ms, treated.p99_ms) == pytest.approx((505, 950.5, 990.1))
    assert (control.degraded, control.empty, control.errors) == (1, 1, 0)
    assert found.codes == {"OK": 101, "INTERNAL BROKEN": 1}
    assert found.snapshots == {0: 100, 3: 1}
    assert found.rate == pytest.approx(10.2)
    assert [(limit.name, limit.passed) for limit in found.limits] == [("error rate", True), ("P95 in ms", False)]


def test_a_limit_is_not_kept_where_nothing_was_answered() -> None:
    found = summed([Asked("a", 1, 1.0, "UNAVAILABLE UNREACHABLE")], 1.0, {"P95 in ms": 1000})
    assert not found.limits[0].passed


def test_questions_are_lines_or_beir_queries(tmp_path: Path) -> None:
    assert len(read_questions(None)) >= 30
    lines, beir = tmp_path / "questions.txt", tmp_path / "queries.jsonl"
    lines.write_text("why?\n\nhow?\n")
    beir.write_text('{"_id": "1", "text": "why?"}\n{"_id": "2", "text": " "}\n')
    assert read_questions(lines) == ["why?", "how?"]
    assert read_questions(beir) == ["why?"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b"\xff"),
        ("a.jsonl", b"nonsense"),
        ("a.jsonl", b'["text"]'),
        ("a.jsonl", b'{"text": 1}'),
    ],
)
def test_what_holds_no_questions_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Problem, match="cannot be used"):
        read_questions(path)
    with pytest.raises(Problem, match="No such file"):
        read_questions(tmp_path / "gone.txt")


def test_a_load_without_a_gateway_ends_with_exit_code_1_and_a_remedy() -> None:
    command = ["--gateway", "127.0.0.1:9", "--timeout", "5", "loadtest", "--requests", "20", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == NEEDS_A_LOOK
    assert json.loads(result.stdout)["error_rate"] == 1.0
    assert "no request was answered" in result.stderr
    assert "make up" in result.stderr
