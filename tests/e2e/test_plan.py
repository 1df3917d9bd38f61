"""`sluice plan calibrate` against real processes, and a plan from what it measured."""

import asyncio
import json

import pytest
from typer.testing import CliRunner

from sluice_cli import calls
from sluice_cli.main import app
from sluice_plan import STAGES, Measurements

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_running_stack_can_be_measured_and_planned_from(stored, tmp_path):
    path = tmp_path / "mine.json"
    metrics = [part for stage in STAGES for part in ("--metrics", f"{stage}={stored.stack.metrics_url(stage)}")]
    gateway = ["--gateway", stored.stack.address("gateway")]
    calibrate = ["plan", "calibrate", "--output", str(path), "--collection", stored.collection, *metrics]
    small = ["--searches", "8", "--candidates", "2"]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*gateway, *calibrate, *small])
    assert result.exit_code in (calls.DONE, calls.NEEDS_A_LOOK), result.stderr  # it may well be a busy machine

    measured = Measurements.from_json(path.read_bytes())
    assert measured.measured.passages == len(stored.corpus.passages)
    everything = measured.cost({"expansion", "rerank"})
    assert set(everything.stages) == set(STAGES)
    assert everything.stages["embedder"].passes == pytest.approx(2, abs=1)
    assert everything.stages["reranker"].tokens > everything.stages["embedder"].tokens > 0
    assert all(cost.wall_ms > 0 and cost.cpu_ms >= 0 for cost in everything.stages.values())
    assert set(measured.cost(()).stages) == {"gateway", "embedder", "retriever"}

    plan = ["plan", "--qps", "1", "--p99-ms", "60000", "--measurements", str(path), "--json"]
    told = await asyncio.to_thread(CliRunner().invoke, app, plan)
    assert told.exit_code == calls.DONE, told.stderr
    assert json.loads(told.stdout)["p99_ms"] > 0


async def test_metrics_that_are_not_there_are_said_with_the_option_that_names_them(stored, tmp_path):
    gateway = ["--gateway", stored.stack.address("gateway")]
    nowhere = [part for stage in STAGES for part in ("--metrics", f"{stage}=http://127.0.0.1:9/metrics")]
    command = ["plan", "calibrate", "--output", str(tmp_path / "x.json"), "--collection", stored.collection]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*gateway, *command, *nowhere])
    assert result.exit_code == calls.NOT_DONE
    assert "no metrics at http://127.0.0.1:9/metrics" in result.stderr
    assert "--metrics" in result.stderr
