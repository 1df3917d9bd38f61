"""RPCs of experiments."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from drills.faults.rpcs.control_plane import COMMAND, is_command, is_name
from drills.parts.rpc import Rpc
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.type.v1.experiment_pb2 import EXPERIMENT_METHOD_AB, ExperimentArm
from sluice.type.v1.features_pb2 import Features

RUNNING, COMMANDED = "running", "compared"
"""Experiments: one that has answers, and is commanded nothing; and one that everything happens to."""
ARM = "hybrid"
_BUCKETS = 1_000_000


def plan(name: str) -> pb.ExperimentPlan:
    """A plan of two arms."""
    return pb.ExperimentPlan(
        name=name,
        hypothesis="words help",
        method=EXPERIMENT_METHOD_AB,
        arms=[
            ExperimentArm(name="dense", features=Features(lexical=False)),
            ExperimentArm(name=ARM, features=Features(lexical=True)),
        ],
        share_ppm=200_000,
        guardrails=[pb.MetricGuardrail(metric=pb.EXPERIMENT_METRIC_LATENCY, allowed_change=0.1)],
        minimum_effect=0.02,
        alpha=0.01,
    )


def experiments() -> list[Rpc]:
    """Of experiments."""
    evidence = pb.AttachedEvidence(
        step=pb.LADDER_STEP_OFFLINE, time=Timestamp(seconds=1_700_000_000), summary="nDCG@10 +3 %", result_json="{}"
    )
    return [
        Rpc(
            pb.CreateExperimentRequest(command=COMMAND, plan=plan(COMMANDED)),
            lambda asked, said: is_command(asked.command) and _is_plan(asked.plan)
            and said.experiment.plan.name == asked.plan.name and said.experiment.state == pb.EXPERIMENT_STATE_READY,
        ),
        Rpc(
            pb.StartExperimentRequest(command=COMMAND, name=COMMANDED),
            lambda asked, said: _commanded(asked, said) and said.experiment.state == pb.EXPERIMENT_STATE_RUNNING
            and 0 <= said.experiment.first_bucket <= _BUCKETS - said.experiment.plan.share_ppm,
        ),
        Rpc(
            pb.StopExperimentRequest(command=COMMAND, name=COMMANDED),
            lambda asked, said: _commanded(asked, said) and said.experiment.state == pb.EXPERIMENT_STATE_ENDED
            and said.experiment.HasField("end_time"),
        ),
        Rpc(
            pb.GetExperimentRequest(name=RUNNING),
            lambda asked, said: said.experiment.plan.name == asked.name and bool(said.experiment.run_id),
        ),
        Rpc(
            pb.ListExperimentsRequest(page_size=3),
            lambda asked, said: 0 <= asked.page_size <= 1000
            and all(one.plan.name > asked.page_token for one in said.experiments),
        ),
        Rpc(
            pb.AttachEvidenceRequest(command=COMMAND, name=RUNNING, evidence=evidence),
            lambda asked, _said: is_command(asked.command) and is_name(asked.name)
            and asked.evidence.step in {pb.LADDER_STEP_OFFLINE, pb.LADDER_STEP_REPLAY}
            and bool(asked.evidence.summary.strip()) and len(asked.evidence.result_json.encode()) <= 2**18,
        ),
        Rpc(
            pb.GetExperimentReportRequest(name=RUNNING),
            lambda asked, said: said.experiment.plan.name == asked.name and len(said.points) <= 500,
        ),
    ]  # fmt: skip


def _commanded(asked: Any, said: Any) -> bool:
    return is_command(asked.command) and said.experiment.plan.name == asked.name


def _is_plan(asked: pb.ExperimentPlan) -> bool:
    return (
        is_name(asked.name)
        and is_name(asked.layer or "default")
        and 2 <= len(asked.arms) <= 8
        and all(is_name(arm.name) for arm in asked.arms)
        and 1 <= asked.share_ppm <= _BUCKETS
        and 0 < asked.minimum_effect <= 10
        and (not asked.HasField("alpha") or 0 < asked.alpha <= 0.5)
        and all(0 <= rule.allowed_change <= 10 for rule in asked.guardrails)
    )
