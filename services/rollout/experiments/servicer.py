"""ExperimentService: validate, translate, delegate."""

from __future__ import annotations

from typing import Any

from services.chassis.errors import InvalidArgument
from services.chassis.timing import since_1970
from services.rollout.experiments.control import ExperimentControl
from services.rollout.experiments.experiments import known
from services.rollout.experiments.plan import ExperimentPlan
from services.rollout.experiments.records import AttachedEvidence, ExperimentRecords, LadderStep
from services.rollout.leader_election import LeaderElection
from services.rollout.servicer import REPORTED_ENTRIES, Context, command_of, page_size, thinned
from services.rollout.storage.records import Records
from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.rollout.v1 import experiment_pb2_grpc

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each does


class ExperimentServicer(experiment_pb2_grpc.ExperimentServiceServicer):
    """Implements ExperimentService, for operators. Replicas that stand by answer what only reads."""

    def __init__(self, replica: LeaderElection, control: ExperimentControl) -> None:
        self._replica = replica
        self._control = control

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Context
    ) -> pb.CreateExperimentResponse:
        command, plan = command_of(request), ExperimentPlan.from_proto(request.plan)
        experiment = await self._replica.write(lambda records: self._control.create(records, command, plan))
        return pb.CreateExperimentResponse(experiment=experiment.to_proto())

    async def StartExperiment(self, request: pb.StartExperimentRequest, context: Context) -> pb.StartExperimentResponse:
        command = command_of(request)
        experiment = await self._replica.write(lambda records: self._control.start(records, command, request.name))
        return pb.StartExperimentResponse(experiment=experiment.to_proto())

    async def StopExperiment(self, request: pb.StopExperimentRequest, context: Context) -> pb.StopExperimentResponse:
        command = command_of(request)
        experiment = await self._replica.write(lambda records: self._control.stop(records, command, request.name))
        return pb.StopExperimentResponse(experiment=experiment.to_proto())

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.GetExperimentResponse:
        def read(records: Records) -> pb.GetExperimentResponse:
            ours = ExperimentRecords(records.connection)
            experiment = known(ours.experiment(request.name), request.name)
            findings = ours.newest_findings(experiment)
            return pb.GetExperimentResponse(
                experiment=experiment.to_proto(), findings=findings.to_proto() if findings else None
            )

        return await self._replica.read(read)

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        size = page_size(request.page_size)
        every = await self._replica.read(lambda records: ExperimentRecords(records.connection).experiments())
        # The name of a page's last experiment is the token, so pages stay right while experiments are made.
        rest = sorted((one for one in every if one.name > request.page_token), key=lambda one: one.name)
        return pb.ListExperimentsResponse(
            experiments=[experiment.to_proto() for experiment in rest[:size]],
            next_page_token=rest[size - 1].name if len(rest) > size else "",
        )

    async def AttachEvidence(self, request: pb.AttachEvidenceRequest, context: Context) -> pb.AttachEvidenceResponse:
        command, evidence = command_of(request), _evidence(request.evidence)
        await self._replica.write(lambda records: self._control.attach(records, command, request.name, evidence))
        return pb.AttachEvidenceResponse()

    async def GetExperimentReport(
        self, request: pb.GetExperimentReportRequest, context: Context
    ) -> pb.GetExperimentReportResponse:
        def read(records: Records) -> pb.GetExperimentReportResponse:
            ours = ExperimentRecords(records.connection)
            experiment = known(ours.experiment(request.name), request.name)
            flags = [dict(arm.overrides.values) for arm in experiment.plan.arms if arm.overrides]
            return pb.GetExperimentReportResponse(
                experiment=experiment.to_proto(),
                history=[entry.to_proto() for entry in records.newest_history(experiment.name, REPORTED_ENTRIES)],
                points=[findings.to_proto() for findings in thinned(ours.points(experiment))],
                attached=[evidence.to_proto() for evidence in ours.attached(experiment.name)],
                features=[
                    feature.to_proto() for feature in records.features() if dict(feature.overrides.values) in flags
                ],
            )

        return await self._replica.read(read)


def _evidence(message: Any) -> AttachedEvidence:
    """Read evidence of an earlier step. Raises InvalidArgument for another step, or a time that is missing."""
    steps = {pb.LadderStep.Value(f"LADDER_STEP_{step.name}"): step for step in LadderStep}
    if message.step not in steps:
        raise InvalidArgument("evidence.step", "must be OFFLINE or REPLAY; the others are known to the service")
    if not message.HasField("time"):
        raise InvalidArgument("evidence.time", "is missing: say when it was measured")
    time = since_1970(message.time, "evidence.time")
    return AttachedEvidence(steps[message.step], time, message.summary, message.result_json)
