"""The asyncio client of the experiments, and of the feedback that they stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Unpack

from sluice.rollout.v1 import experiment_pb2 as pb
from sluice.rollout.v1 import experiment_pb2_grpc, feedback_pb2, feedback_pb2_grpc
from sluice_client.channel import Credentials
from sluice_client.experiment.experiments import (
    AttachedEvidence,
    Experiment,
    ExperimentPlan,
    ExperimentReport,
    ExperimentStatus,
)
from sluice_client.feedback.served import AnswerFeedback
from sluice_client.messages import fill
from sluice_client.rollout.commands import Commanding

# The longest that a server takes: an export reads all days.
_EXPORT_SECONDS = 3600.0


class AsyncExperimentClient(Commanding):
    """A client of the experiments of a rollout service, used as `async with AsyncExperimentClient(...)`.

    `actor`, `timeout` and credentials are those of `AsyncRolloutClient`, and commands are repeated as there.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50057",
        *,
        actor: str,
        timeout: float = 10.0,
        **credentials: Unpack[Credentials],
    ) -> None:
        service = "sluice.rollout.v1.ExperimentService"
        super().__init__(address, service=service, actor=actor, timeout=timeout, **credentials)

    async def experiments(self) -> AsyncIterator[Experiment]:
        """Iterate over all experiments, in the order of their names."""
        async for page in self._pages(self._experiments.ListExperiments, pb.ListExperimentsRequest()):
            for experiment in page.experiments:
                yield Experiment.from_proto(experiment)

    async def experiment(self, name: str) -> ExperimentStatus:
        """Show an experiment with its newest findings. Raises SluiceError."""
        request = fill(pb.GetExperimentRequest(), name=name)
        return ExperimentStatus.from_proto(await self._call(self._experiments.GetExperiment, request))

    async def create(self, plan: ExperimentPlan, *, reason: str) -> Experiment:
        """Store a plan; it reaches no users yet. Raises SluiceError; its `field` names what is wrong."""
        request = fill(pb.CreateExperimentRequest(command=self._command(reason)), plan=plan)
        return Experiment.from_proto((await self._call(self._experiments.CreateExperiment, request)).experiment)

    async def start(self, name: str, *, reason: str) -> Experiment:
        """Begin a run."""
        request = fill(pb.StartExperimentRequest(command=self._command(reason)), name=name)
        return Experiment.from_proto((await self._call(self._experiments.StartExperiment, request)).experiment)

    async def stop(self, name: str, *, reason: str) -> Experiment:
        """End the run: all users get the standard again."""
        request = fill(pb.StopExperimentRequest(command=self._command(reason)), name=name)
        return Experiment.from_proto((await self._call(self._experiments.StopExperiment, request)).experiment)

    async def attach(self, name: str, evidence: AttachedEvidence, *, reason: str) -> None:
        """Keep what was measured before users saw anything, in place of earlier evidence of the same step."""
        request = fill(pb.AttachEvidenceRequest(command=self._command(reason)), name=name, evidence=evidence)
        await self._call(self._experiments.AttachEvidence, request)

    async def report(self, name: str) -> ExperimentReport:
        """Read the material for the review of an experiment."""
        request = fill(pb.GetExperimentReportRequest(), name=name)
        return ExperimentReport.from_proto(await self._call(self._experiments.GetExperimentReport, request))

    async def feedback(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        experiment: str = "",
        collection: str = "",
        timeout: float = _EXPORT_SECONDS,
    ) -> AsyncIterator[AnswerFeedback]:
        """Iterate over answers with what was done with them, those of whole days (UTC), oldest first.

        Args:
            start_time: From this day on; from the first if None.
            end_time: Up to this moment, without it; all if None.
            experiment: Only answers of this experiment; all if empty.
            collection: Only answers from this collection; all if empty.
            timeout: Deadline of the whole export in seconds.
        """
        request = fill(
            feedback_pb2.ExportFeedbackRequest(),
            start_time=start_time,
            end_time=end_time,
            experiment=experiment,
            collection=collection,
        )
        stub = self._stub(feedback_pb2_grpc.FeedbackStoreServiceStub)
        async with aclosing(self._stream(stub.ExportFeedback, request, timeout)) as replies:
            async for reply in replies:
                for answer in reply.answers:
                    yield AnswerFeedback.from_proto(answer)

    @property
    def _experiments(self) -> experiment_pb2_grpc.ExperimentServiceStub:
        return self._stub(experiment_pb2_grpc.ExperimentServiceStub)
