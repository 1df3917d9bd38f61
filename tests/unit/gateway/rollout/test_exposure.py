from __future__ import annotations

from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry

from services.experiment.bucketing import BUCKETS, Arm
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.snapshot_hash import content_hash
from services.gateway.metrics import GatewayMetrics
from services.gateway.rollout.client import look_once
from services.gateway.rollout.evidence import Ending, Evidence
from services.gateway.rollout.exposure import DISTRUST_SECONDS, FROZEN_SECONDS, Exposure
from services.gateway.rollout.local_overrides import LocalOverrides, OverridesFile
from services.gateway.rollout.snapshot import serve
from services.gateway.rollout.table import FeatureArm, Ramp
from services.gateway.search.flags import Features
from services.gateway.search.stages import Answer, Outcome, Stage, StageReport
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1 import experiment_pb2, features_pb2
from tests.unit.gateway.samples import COURSE

COMPLETE = pb.SnapshotFeature(
    name="rerank-v1", salt="rerank-v1", features=features_pb2.Features(rerank=True), treatment_ppm=BUCKETS
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def exposure(clock: Clock) -> Exposure:
    made = Exposure(Features(), LocalOverrides(), Evidence(), GatewayMetrics(CollectorRegistry()), clock)
    made.take(
        serve(pb.RolloutSnapshot(version=1, features=[COMPLETE], content_hash=content_hash([COMPLETE])), Features())
    )
    made.confirm()
    return made


def reranks(exposure: Exposure) -> bool:
    return exposure.decide("user-42").features.rerank


def test_a_gateway_that_was_frozen_gives_no_feature_until_the_service_confirms_the_snapshot() -> None:
    clock = Clock()
    gateway = exposure(clock)
    assert reranks(gateway)
    clock.now += FROZEN_SECONDS + 0.1
    assert not reranks(gateway)
    gateway.confirm(gateway.freezes)
    assert reranks(gateway)


def test_a_word_from_before_the_freeze_confirms_nothing() -> None:
    clock = Clock()
    gateway = exposure(clock)
    before = gateway.freezes
    clock.now += FROZEN_SECONDS + 0.1
    gateway.beat()
    gateway.confirm(before)
    assert not reranks(gateway)


def test_after_a_freeze_without_the_service_complete_features_come_back() -> None:
    clock = Clock()
    gateway = exposure(clock)
    clock.now += FROZEN_SECONDS + 0.1
    assert not reranks(gateway)
    for _ in range(int(DISTRUST_SECONDS / 0.25) + 1):
        clock.now += 0.25
        gateway.beat()
    assert reranks(gateway)


def test_a_loop_that_beats_is_not_frozen() -> None:
    clock = Clock()
    gateway = exposure(clock)
    for _ in range(40):
        clock.now += FROZEN_SECONDS / 2
        gateway.beat()
        assert reranks(gateway)


RAMP = Ramp("rerank-v1", "rerank-v1", Overrides(rerank=True, rerank_candidate_count=50), 100_000, 100_000, "r.1", 10.0)


def totals(arm: Arm, **ending: object) -> dict[Guardrail, int]:
    evidence = Evidence()
    evidence.request([FeatureArm("rerank-v1", "r.1", arm, ramp=RAMP, unit=7)], Ending(0.1, **ending))  # type: ignore[arg-type]
    (taken,) = evidence.take()
    assert taken.request_count == 1
    return {guardrail: bad.count for guardrail, bad in taken.bad.items()}


def test_an_answer_in_which_the_features_own_stage_did_not_work_is_an_exposure_failure() -> None:
    assert totals(Arm.TREATMENT, idle_stages=frozenset({"rerank"})) == {Guardrail.EXPOSURE: 1}
    assert totals(Arm.TREATMENT, idle_stages=frozenset({"expand"})) == {}
    assert totals(Arm.CONTROL) == {}


def test_a_request_that_the_caller_gave_up_counts_as_a_request_without_a_time() -> None:
    evidence = Evidence()
    evidence.request([FeatureArm("rerank-v1", "r.1", Arm.TREATMENT, ramp=RAMP, unit=7)], Ending(0.1, given_up=True))
    (taken,) = evidence.take()
    assert (taken.request_count, sum(taken.latency_counts), taken.bad) == (1, 0, {})


def idle(outcome: Outcome, reason: str) -> frozenset[str]:
    return Answer([], [StageReport(Stage.RERANK, outcome, reason)], COURSE, None).idle_stages


def test_a_stage_is_idle_where_it_was_asked_and_did_not_do_its_work() -> None:
    assert idle(Outcome.FAILED, "UNREACHABLE") == {"rerank"}
    assert idle(Outcome.SKIPPED, "NO_TIME") == {"rerank"}
    assert idle(Outcome.DEGRADED, "OTHER_STRATEGY_SERVED") == {"rerank"}
    assert not idle(Outcome.RAN, "")
    assert not idle(Outcome.SKIPPED, "FEATURE_OFF")
    assert not idle(Outcome.SKIPPED, "NO_CANDIDATES")
    assert not idle(Outcome.DEGRADED, "FEWER_CANDIDATES")


async def test_a_file_of_overrides_that_is_not_understood_is_loud_at_once(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    gateway = Exposure(Features(), LocalOverrides(), Evidence(), GatewayMetrics(registry), Clock())
    file = OverridesFile(tmp_path / "overrides.env", LocalOverrides(), Features())

    async def problems_after(content: bytes) -> float | None:
        file.path.write_bytes(content)
        await look_once(file, gateway, None)
        return registry.get_sample_value("sluice_rollout_override_problems")

    assert await problems_after(b"ROLLOUT_KIL=rerank-v1\nRERANK_ROLLOUT_PERCENTAGE=lots\n") == 2
    assert await problems_after(b"ROLLOUT_KILL=rerank-v1\n") == 0


EXPERIMENT = pb.SnapshotFeature(
    name="mixed",
    salt="mixed",
    ramp_id="mixed/1",
    lease_duration=Duration(seconds=10),
    experiment=experiment_pb2.ServedExperiment(
        method=experiment_pb2.EXPERIMENT_METHOD_AB,
        layer_salt="default",
        bucket_count=BUCKETS,
        arms=[
            experiment_pb2.ExperimentArm(name="control"),
            experiment_pb2.ExperimentArm(name="reranked", features=features_pb2.Features(rerank=True)),
        ],
    ),
)


def test_an_experiment_reaches_users_until_this_machine_kills_it_and_is_counted() -> None:
    registry = CollectorRegistry()
    gateway = Exposure(Features(), LocalOverrides(), Evidence(), GatewayMetrics(registry), Clock())
    content = content_hash([EXPERIMENT])
    gateway.take(serve(pb.RolloutSnapshot(version=1, features=[EXPERIMENT], content_hash=content), Features()))
    assert gateway.decide("user-42").experiments == []  # the service has not confirmed it
    gateway.confirm()
    (part,) = gateway.decide("user-42").experiments
    gateway.count()
    labels = {"experiment": "mixed", "arm": part.arm}
    assert registry.get_sample_value("sluice_experiment_searches_total", labels) == 1
    gateway.override(LocalOverrides(killed=("mixed",)))
    decision = gateway.decide("user-42")
    assert (decision.experiments, decision.features) == ([], Features())
    assert [(arm.feature, arm.reason.value) for arm in decision.arms] == [("mixed", "KILLED")]
