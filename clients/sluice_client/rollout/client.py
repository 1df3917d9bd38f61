"""The asyncio client of the rollout service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Unpack

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1.features_pb2 import Features
from sluice_client.channel import Credentials
from sluice_client.messages import fill
from sluice_client.rollout.commands import Commanding
from sluice_client.rollout.features import Feature, FeatureList, FeatureStatus, HistoryEntry, Plan, RolloutReport


class AsyncRolloutClient(Commanding):
    """A client of a rollout service, used as `async with AsyncRolloutClient(...)`.

    Every command carries an `actor` and a `reason`; where the service asks for `Credentials`, these say who acts. A
    command of which the answer got lost is sent again, up to four times in all, under one id, so that the service does
    it once. `timeout` is the deadline of each attempt in seconds.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50057",
        *,
        actor: str,
        timeout: float = 10.0,
        **credentials: Unpack[Credentials],
    ) -> None:
        service = "sluice.rollout.v1.RolloutService"
        super().__init__(address, service=service, actor=actor, timeout=timeout, **credentials)

    async def features(self) -> FeatureList:
        """List all features, and the version of the newest snapshot."""
        found = pb.ListFeaturesResponse()
        async for page in self._pages(self._rollout.ListFeatures, pb.ListFeaturesRequest()):
            found.MergeFrom(page)
        return FeatureList.from_proto(found)

    async def feature(self, name: str) -> FeatureStatus:
        """Show a feature with its evidence and gateways. Raises SluiceError."""
        request = fill(pb.GetFeatureRequest(), name=name)
        return FeatureStatus.from_proto(await self._call(self._rollout.GetFeature, request))

    async def create(
        self, name: str, features: Features, *, reason: str, description: str = "", salt: str = ""
    ) -> Feature:
        """Make a feature that reaches no users yet.

        Args:
            name: 1 to 64 lower case letters, digits and dashes.
            features: Flags that it sets; at least one.
            reason: The reason, for the history.
            description: A description in words.
            salt: Goes into the bucket of every user; the name if empty. Never changes.
        """
        request = fill(
            pb.CreateFeatureRequest(command=self._command(reason)),
            name=name,
            description=description,
            features=features,
            salt=salt,
        )
        return Feature.from_proto((await self._call(self._rollout.CreateFeature, request)).feature)

    async def start(self, name: str, plan: Plan, *, reason: str) -> Feature:
        """Begin a plan's first step."""
        request = fill(pb.StartRampRequest(command=self._command(reason)), name=name, plan=plan)
        return Feature.from_proto((await self._call(self._rollout.StartRamp, request)).feature)

    async def promote(self, name: str, *, reason: str) -> Feature:
        """Go on to the plan's next step, where the evidence allows it."""
        request = fill(pb.PromoteFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.PromoteFeature, request)).feature)

    async def hold(self, name: str, *, reason: str) -> Feature:
        """Keep the share where it is until a person promotes the feature."""
        request = fill(pb.HoldFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.HoldFeature, request)).feature)

    async def set_share(self, name: str, treatment_ppm: int, *, reason: str) -> Feature:
        """Set the share of users by hand."""
        request = fill(
            pb.SetTreatmentShareRequest(command=self._command(reason)), name=name, treatment_ppm=treatment_ppm
        )
        return Feature.from_proto((await self._call(self._rollout.SetTreatmentShare, request)).feature)

    async def halve(self, name: str, *, reason: str) -> Feature:
        """Halve the share: last in, first out."""
        request = fill(pb.HalveFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.HalveFeature, request)).feature)

    async def roll_back(self, name: str, *, reason: str) -> Feature:
        """Take the feature back from all users, until it is armed again."""
        request = fill(pb.RollBackFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.RollBackFeature, request)).feature)

    async def kill(self, name: str, *, reason: str) -> Feature:
        """Switch the feature off, for requests that ask for it, too."""
        request = fill(pb.KillFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.KillFeature, request)).feature)

    async def rearm(self, name: str, *, reason: str) -> Feature:
        """Let a feature that was rolled back or killed be started again."""
        request = fill(pb.RearmFeatureRequest(command=self._command(reason)), name=name)
        return Feature.from_proto((await self._call(self._rollout.RearmFeature, request)).feature)

    async def history(self, name: str = "") -> AsyncIterator[HistoryEntry]:
        """Iterate over the history of all features, or of one, oldest first."""
        request = fill(pb.ListHistoryRequest(), name=name)
        async for page in self._pages(self._rollout.ListHistory, request):
            for entry in page.entries:
                yield HistoryEntry.from_proto(entry)

    async def report(self, name: str) -> RolloutReport:
        """Read the material for the review of a feature's rollout."""
        request = fill(pb.GetReportRequest(), name=name)
        return RolloutReport.from_proto(await self._call(self._rollout.GetReport, request))

    @property
    def _rollout(self) -> rollout_pb2_grpc.RolloutServiceStub:
        return self._stub(rollout_pb2_grpc.RolloutServiceStub)
