"""The asyncio client of the rollout service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, Unpack

import grpc
from google.protobuf.message import Message

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1.features_pb2 import Features
from sluice_client.channel import Caller, Credentials, ReplyT
from sluice_client.errors import SluiceError
from sluice_client.messages import fill
from sluice_client.rollout.features import Feature, FeatureList, FeatureStatus, HistoryEntry, Plan, RolloutReport

_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2


class AsyncRolloutClient(Caller):
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
        super().__init__(
            address,
            server="the rollout service",
            service="sluice.rollout.v1.RolloutService",
            timeout=timeout,
            **credentials,
        )
        self._actor = actor

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

    def _command(self, reason: str) -> pb.Command:
        return fill(pb.Command(command_id=uuid.uuid4().hex), "command", actor=self._actor, reason=reason)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT],
        request: Message,
        timeout: float | None = None,  # of the call, for the server too
    ) -> ReplyT:
        """Send a request, and repeat it without an answer: commands have ids."""
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await super()._call(method, request, timeout)
            except SluiceError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        return await super()._call(method, request, timeout)
