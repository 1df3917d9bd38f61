"""RPCs of rollouts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from google.protobuf.duration_pb2 import Duration

from drills.parts.rpc import Rpc
from sluice.rollout.v1 import rollout_pb2 as rollout
from sluice.type.v1.arm_pb2 import ARM_TREATMENT
from sluice.type.v1.features_pb2 import Features

STILL, COMMANDED, RAMPING = "still", "commanded", "ramping"
"""Features: one that nothing happens to, one that everything happens to, and one that is reported on."""
COMMAND = rollout.Command(actor="drill", reason="to see")


def rollouts() -> list[Rpc]:
    """Of features. What is commanded is not what is reported on: mutants make for a long history."""
    features = Features(rerank=True, rerank_candidate_count=20)
    plan = rollout.Plan(
        name="week",
        steps=[
            rollout.PlanStep(treatment_ppm=10_000, dwell=Duration(seconds=60), automatic=True),
            rollout.PlanStep(treatment_ppm=500_000),
        ],
        criteria=rollout.Criteria(error_rate_max=0.02, p95_max=Duration(seconds=3)),
        holdout_ppm=1000,
    )
    evidence = rollout.ArmEvidence(
        feature=RAMPING, ramp_id=f"{RAMPING}.1", arm=ARM_TREATMENT, request_count=3, units=[5, 6, 7],
        bad_events=[rollout.BadEvents(guardrail=rollout.GUARDRAIL_ERRORS, event_count=1, units=[5])],
        shadow_win_count=1, shadow_overlap_sum=0.5, quality_score_sum=0.5, quality_score_count=1,
    )  # fmt: skip
    named = (
        rollout.PromoteFeatureRequest, rollout.HoldFeatureRequest, rollout.HalveFeatureRequest,
        rollout.RollBackFeatureRequest, rollout.KillFeatureRequest, rollout.RearmFeatureRequest,
    )  # fmt: skip
    return [
        Rpc(rollout.ListFeaturesRequest(), lambda _asked, said: said.snapshot_version >= 1),
        Rpc(rollout.GetFeatureRequest(name=STILL), lambda asked, said: said.feature.name == asked.name),
        Rpc(
            rollout.CreateFeatureRequest(command=COMMAND, name=COMMANDED, features=features),
            lambda asked, said: _commanded(asked, said)
            and is_name(asked.name)
            and bool(asked.features.ListFields()),
        ),
        Rpc(
            rollout.StartRampRequest(command=COMMAND, name=COMMANDED, plan=plan),
            lambda asked, said: _commanded(asked, said) and _rises([step.treatment_ppm for step in asked.plan.steps]),
        ),
        Rpc(
            rollout.SetTreatmentShareRequest(command=COMMAND, name=COMMANDED, treatment_ppm=20_000),
            lambda asked, said: _commanded(asked, said)
            and 0 <= asked.treatment_ppm == said.feature.treatment_ppm <= 1_000_000,
        ),
        *(Rpc(request(command=COMMAND, name=COMMANDED), _commanded) for request in named),
        Rpc(
            rollout.ListHistoryRequest(name=STILL, page_size=3),
            lambda asked, said: 0 <= asked.page_size <= 1000
            and all(not asked.name or entry.feature == asked.name for entry in said.entries),
        ),
        Rpc(rollout.GetReportRequest(name=STILL), lambda asked, said: said.feature.name == asked.name),
        Rpc(
            rollout.WatchSnapshotRequest(gateway="gateway-1"),
            lambda asked, said: _is_gateway(asked.gateway)
            and said.HasField("snapshot") == (asked.content_hash != said.content_hash),
        ),
        Rpc(
            rollout.AcknowledgeSnapshotRequest(
                gateway="gateway-1", version=1, content_hash="h", locally_killed=[STILL],
                quarantined=[rollout.QuarantinedFeature(name=STILL, reason="is not known")],
            ),
            lambda asked, _said: _is_gateway(asked.gateway) and asked.version >= 0,
        ),
        Rpc(
            rollout.ReportEvidenceRequest(gateway="gateway-1", incarnation=7, sequence=1, arms=[evidence]),
            lambda asked, _said: _is_gateway(asked.gateway) and asked.sequence >= 1
            and all(_is_evidence(arm) for arm in asked.arms),
        ),
    ]  # fmt: skip


def _commanded(asked: Any, said: Any) -> bool:
    return is_command(asked.command) and said.feature.name == asked.name


def is_command(command: Any) -> bool:
    """True for a command that says who and why."""
    return bool(command.actor.strip() and command.reason.strip())


def is_name(name: str) -> bool:
    """True for a name of a feature or of an experiment."""
    return re.fullmatch("[a-z0-9-]{1,64}", name) is not None


def _rises(shares: Sequence[int]) -> bool:
    return all(before < share <= 1_000_000 for before, share in pairwise([0, *shares]))


def _is_gateway(name: str) -> bool:
    return re.fullmatch(r"[\x21-\x7e]{1,128}", name) is not None


def _is_evidence(arm: Any) -> bool:
    counts = [arm.request_count, arm.shadow_win_count, arm.quality_score_count, *arm.latency_counts]
    counts += [bad.event_count for bad in arm.bad_events]
    sums = [arm.shadow_overlap_sum, arm.quality_score_sum]
    return arm.arm in {1, 2} and all(math.isfinite(number) and number >= 0 for number in (*counts, *sums))
