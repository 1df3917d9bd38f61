"""ExperimentService on a real socket: operators on one side, gateways on the other."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import REGISTRY

from services.chassis.errors import InvalidArgument, NotFound, ResourceExhausted, SluiceError, Unavailable
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.rollout.v1 import experiment_pb2_grpc, feedback_pb2_grpc, rollout_pb2
from sluice.type.v1 import experiment_pb2, features_pb2
from tests.contract.test_rollout import WHO, Service, snapshot_of, started
from tests.unit.rollout.experiments.desk import Answer, request_of

PLAN = pb.ExperimentPlan(
    name="hybrid",
    hypothesis="words help",
    method=experiment_pb2.EXPERIMENT_METHOD_AB,
    arms=[
        experiment_pb2.ExperimentArm(name="dense", features=features_pb2.Features(lexical=False)),
        experiment_pb2.ExperimentArm(name="hybrid", features=features_pb2.Features(lexical=True)),
    ],
    share_ppm=600_000,
    minimum_effect=0.02,
)


class Experiments:
    """The service of experiments, beside the others of the same server."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._stub = experiment_pb2_grpc.ExperimentServiceStub(service._channel.channel)

    async def ask(self, method: str, request: Any) -> Any:
        return await self.service._channel.call(getattr(self._stub, method), request, deadline=time.monotonic() + 20)

    async def create(self, plan: pb.ExperimentPlan = PLAN) -> pb.Experiment:
        return (await self.ask("CreateExperiment", pb.CreateExperimentRequest(command=WHO, plan=plan))).experiment

    async def start(self, name: str = "hybrid") -> pb.Experiment:
        return (await self.ask("StartExperiment", pb.StartExperimentRequest(command=WHO, name=name))).experiment

    async def stop(self, name: str = "hybrid") -> pb.Experiment:
        return (await self.ask("StopExperiment", pb.StopExperimentRequest(command=WHO, name=name))).experiment


@pytest.fixture
async def experiments(tmp_path: Path) -> AsyncIterator[Experiments]:
    async with started(tmp_path / "rollout.db", rollout_experiment_seconds=0.05) as service:
        yield Experiments(service)


def named(name: str) -> pb.ExperimentPlan:
    plan = pb.ExperimentPlan()
    plan.CopyFrom(PLAN)
    plan.name = name
    return plan


async def test_a_started_experiment_reaches_who_watches_and_leaves_them_when_it_is_stopped(
    experiments: Experiments,
) -> None:
    stream = experiments.service.watch()
    first = await snapshot_of(stream, 1)
    made = await experiments.create()
    assert made.state == pb.EXPERIMENT_STATE_READY
    assert made.plan.primary_metric == pb.EXPERIMENT_METRIC_RECIPROCAL_RANK
    running = await experiments.start()
    second = await snapshot_of(stream, first.version + 1)
    (entry,) = second.features
    assert (entry.name, entry.ramp_id, entry.experiment.bucket_count) == ("hybrid", running.run_id, 600_000)
    ended = await experiments.stop()
    assert not (await snapshot_of(stream, second.version + 1)).features
    assert ended.state == pb.EXPERIMENT_STATE_ENDED
    assert ended.end_time.ToNanoseconds() >= ended.start_time.ToNanoseconds()


async def test_experiments_are_listed_by_name_in_pages(experiments: Experiments) -> None:
    for name in ("c", "a", "b"):
        await experiments.create(named(name))
    page = await experiments.ask("ListExperiments", pb.ListExperimentsRequest(page_size=2))
    assert [one.plan.name for one in page.experiments] == ["a", "b"]
    request = pb.ListExperimentsRequest(page_size=2, page_token=page.next_page_token)
    rest = await experiments.ask("ListExperiments", request)
    assert ([one.plan.name for one in rest.experiments], rest.next_page_token) == (["c"], "")


async def test_a_report_holds_the_history_what_was_attached_and_the_feature_of_the_last_step(
    experiments: Experiments,
) -> None:
    await experiments.create()
    await experiments.service.create("hybrid-search", lexical=True)
    await experiments.service.create("other", rerank=True)
    evidence = pb.AttachedEvidence(
        step=pb.LADDER_STEP_OFFLINE, time=Timestamp(seconds=1), summary="nDCG +3 %", result_json="{}"
    )
    request = pb.AttachEvidenceRequest(command=WHO, name="hybrid", evidence=evidence)
    await experiments.ask("AttachEvidence", request)
    await experiments.start()
    report = await experiments.ask("GetExperimentReport", pb.GetExperimentReportRequest(name="hybrid"))
    assert [entry.reason for entry in report.history] == ["to see", "to see"]
    assert list(report.attached) == [evidence]
    assert [feature.name for feature in report.features] == ["hybrid-search"]


@pytest.mark.parametrize(
    "moment",
    [Timestamp(seconds=2**62), Timestamp(seconds=-1), Timestamp(seconds=1, nanos=-1)],
    ids=["far", "old", "odd"],
)
async def test_evidence_of_no_time_is_refused_and_the_report_stays_readable(
    experiments: Experiments, moment: Timestamp
) -> None:
    await experiments.create()
    evidence = pb.AttachedEvidence(step=pb.LADDER_STEP_OFFLINE, time=moment, summary="nDCG +3 %")
    with pytest.raises(InvalidArgument) as caught:
        await experiments.ask("AttachEvidence", pb.AttachEvidenceRequest(command=WHO, name="hybrid", evidence=evidence))
    assert caught.value.field == "evidence.time"
    assert not (await experiments.ask("GetExperimentReport", pb.GetExperimentReportRequest(name="hybrid"))).attached


@pytest.mark.parametrize(
    ("method", "request_", "error", "reason"),
    [
        (
            "CreateExperiment",
            pb.CreateExperimentRequest(command=WHO, plan=pb.ExperimentPlan(name="x")),
            InvalidArgument,
            "INVALID_FIELD",
        ),
        ("StartExperiment", pb.StartExperimentRequest(command=WHO, name="x"), NotFound, "EXPERIMENT_NOT_FOUND"),
        ("GetExperiment", pb.GetExperimentRequest(name="x"), NotFound, "EXPERIMENT_NOT_FOUND"),
        ("GetExperimentReport", pb.GetExperimentReportRequest(name="x"), NotFound, "EXPERIMENT_NOT_FOUND"),
        (
            "AttachEvidence",
            pb.AttachEvidenceRequest(
                command=WHO, name="x", evidence=pb.AttachedEvidence(step=pb.LADDER_STEP_SHADOW, summary="s")
            ),
            InvalidArgument,
            "INVALID_FIELD",
        ),
        ("ListExperiments", pb.ListExperimentsRequest(page_size=-1), InvalidArgument, "INVALID_FIELD"),
    ],
)
async def test_a_wrong_request_is_refused_with_its_code_and_reason(
    experiments: Experiments, method: str, request_: Any, error: type[SluiceError], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await experiments.ask(method, request_)
    assert caught.value.reason == reason


async def test_a_layer_without_room_is_resource_exhausted(experiments: Experiments) -> None:
    for name in ("a", "b"):
        await experiments.create(named(name))
    await experiments.start("a")
    with pytest.raises(ResourceExhausted, match="40 % of the users free") as caught:
        await experiments.start("b")
    assert caught.value.reason == "LAYER_FULL"


async def settled(experiments: Experiments, name: str = "hybrid") -> pb.GetExperimentResponse:
    """The experiment when its run has ended."""
    async with asyncio.timeout(60):
        while True:
            found = await experiments.ask("GetExperiment", pb.GetExperimentRequest(name=name))
            if found.experiment.state == pb.EXPERIMENT_STATE_ENDED:
                return found
            await asyncio.sleep(0.05)


async def test_stored_answers_end_an_experiment_by_themselves(experiments: Experiments) -> None:
    await experiments.create()
    stream = experiments.service.watch()
    first = await snapshot_of(stream, 1)
    running = await experiments.start()
    before = await snapshot_of(stream, first.version + 1)
    rng = random.Random(1)
    arms = ("dense", "hybrid")
    answers = [
        Answer(1 + unit, arms[unit % 2], clicks=(1,) if rng.random() < (0.3, 0.9)[unit % 2] else ())
        for unit in range(400)
    ]
    request = request_of(running.run_id, answers, time.time() - 1, rng)
    store = feedback_pb2_grpc.FeedbackStoreServiceStub(experiments.service._channel.channel)
    await experiments.service._channel.call(store.StoreFeedback, request, deadline=time.monotonic() + 20)
    found = await settled(experiments)
    assert (found.experiment.verdict, found.experiment.arm) == (pb.VERDICT_SHIP, "hybrid")
    assert found.findings.verdict == pb.VERDICT_SHIP
    assert [arm.user_count for arm in found.findings.arms] == [200, 200]
    assert not (await snapshot_of(stream, before.version + 1)).features
    report = await experiments.ask("GetExperimentReport", pb.GetExperimentReportRequest(name="hybrid"))
    assert report.history[-1].action == rollout_pb2.HISTORY_ACTION_DECIDED
    assert report.history[-1].actor == "sluice"
    assert report.points[-1] == found.findings
    ended = REGISTRY.get_sample_value("sluice_experiment_verdicts_total", {"verdict": "ship", "cause": "metric"})
    assert ended == 1


async def test_an_experiment_that_cannot_be_analysed_does_not_keep_others_from_it(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    other = named("other")
    other.layer = "other"
    other.horizon.FromMilliseconds(1)
    # It looks once, at its start. Would it look again, it might read the history before the damage, and would keep it.
    async with started(path, rollout_experiment_seconds=3600) as service:
        experiments = Experiments(service)
        for plan in (named("damaged"), other):
            await experiments.create(plan)
            await experiments.start(plan.name)
    with sqlite3.connect(path) as database:
        # A run that began at no time has no history.
        database.execute("UPDATE experiment SET history_time = -1e300 WHERE name = 'damaged'")
    failures = "sluice_experiment_analysis_failures_total"
    before = REGISTRY.get_sample_value(failures) or 0
    async with started(path, rollout_experiment_seconds=0.05) as service:
        found = await settled(Experiments(service), "other")
    assert found.experiment.verdict == pb.VERDICT_INCONCLUSIVE
    # Both are due in its first look, the damaged one before the other.
    assert (REGISTRY.get_sample_value(failures) or 0) > before


async def test_a_replica_that_stands_by_answers_what_only_reads(tmp_path: Path) -> None:
    path = tmp_path / "rollout.db"
    async with started(path) as first, started(path) as second:
        await Experiments(first).create()
        other = Experiments(second)
        found = await other.ask("ListExperiments", pb.ListExperimentsRequest())
        assert [one.plan.name for one in found.experiments] == ["hybrid"]
        report = await other.ask("GetExperimentReport", pb.GetExperimentReportRequest(name="hybrid"))
        assert len(report.history) == 1
        with pytest.raises(Unavailable) as caught:
            await other.start()
        assert caught.value.reason == "STANDBY"
