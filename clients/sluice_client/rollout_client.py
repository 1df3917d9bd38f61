"""The client of the rollout service: which features reach whom, and how to take one back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice_client import rollout_wire as wire
from sluice_client.answers import Features
from sluice_client.channel import ReplyT, call, open_channel
from sluice_client.errors import SluiceError
from sluice_client.rollouts import Feature, FeatureList, FeatureStatus, HistoryEntry, Plan, RolloutReport
from sluice_client.tls import Tls
from sluice_client.wire import sendable

_SERVICE = "sluice.rollout.v1.RolloutService"
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.2
_HISTORY_PAGE = 1000


class RolloutClient:
    """A rollout service's caller. Made for use as `async with RolloutClient(address, actor="ann") as rollout:`.

    Every command says who wants it (`actor`) and why (`reason`). It is sent again where its answer got lost, up to four
    times in all, under an id of its own that lets the service do it once. `timeout` is the deadline of each attempt in
    seconds; `tls` is for a service that asks for certificates.
    """

    def __init__(
        self, address: str = "127.0.0.1:50057", *, actor: str, timeout: float = 10.0, tls: Tls | None = None
    ) -> None:
        self.address = address
        self._tls = tls
        self._actor = actor
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self.address, _SERVICE, self._tls)
        self._rollout = rollout_pb2_grpc.RolloutServiceStub(self._channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def features(self) -> FeatureList:
        """All features, and the version of the newest snapshot."""
        return wire.from_features(await self._call(self._stub.ListFeatures, pb.ListFeaturesRequest()))

    async def feature(self, name: str) -> FeatureStatus:
        """A feature with its evidence and the gateways that serve it. Raises SluiceError for one that is not there."""
        request = pb.GetFeatureRequest(name=sendable("name", name))
        return wire.from_status(await self._call(self._stub.GetFeature, request))

    async def create(
        self, name: str, overrides: Features, *, reason: str, description: str = "", salt: str = ""
    ) -> Feature:
        """Makes a feature that reaches nobody yet.

        Args:
            name: 1 to 64 lower case letters, digits and dashes.
            overrides: What it switches; at least one thing.
            reason: Why, for the history.
            description: For people.
            salt: Goes into the bucket of every user; the name if empty. Never changes.
        """
        request = pb.CreateFeatureRequest(
            command=self._command(reason),
            name=sendable("name", name),
            description=sendable("description", description),
            overrides=wire.to_overrides(overrides),
            salt=sendable("salt", salt),
        )
        return wire.from_feature((await self._call(self._stub.CreateFeature, request)).feature)

    async def start(self, name: str, plan: Plan, *, reason: str) -> Feature:
        """Begins a plan's first step."""
        request = pb.StartRampRequest(
            command=self._command(reason), name=sendable("name", name), plan=wire.to_plan(plan)
        )
        return wire.from_feature((await self._call(self._stub.StartRamp, request)).feature)

    async def promote(self, name: str, *, reason: str) -> Feature:
        """Goes on to the plan's next step, where the evidence allows it."""
        request = pb.PromoteFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.PromoteFeature, request)).feature)

    async def hold(self, name: str, *, reason: str) -> Feature:
        """Keeps the share where it is until a person promotes the feature."""
        request = pb.HoldFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.HoldFeature, request)).feature)

    async def set_share(self, name: str, treatment_ppm: int, *, reason: str) -> Feature:
        """Sets the share of users by hand."""
        request = pb.SetPercentageRequest(
            command=self._command(reason),
            name=sendable("name", name),
            treatment_ppm=wire.sendable_ppm("treatment_ppm", treatment_ppm),
        )
        return wire.from_feature((await self._call(self._stub.SetPercentage, request)).feature)

    async def halve(self, name: str, *, reason: str) -> Feature:
        """Halves the share: last in, first out."""
        request = pb.HalveFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.HalveFeature, request)).feature)

    async def roll_back(self, name: str, *, reason: str) -> Feature:
        """Takes the feature back from everybody; a person has to arm it again."""
        request = pb.RollBackFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.RollBackFeature, request)).feature)

    async def kill(self, name: str, *, reason: str) -> Feature:
        """Switches the feature off, for requests that ask for it, too."""
        request = pb.KillFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.KillFeature, request)).feature)

    async def rearm(self, name: str, *, reason: str) -> Feature:
        """Lets a feature that was rolled back or killed be started again."""
        request = pb.RearmFeatureRequest(command=self._command(reason), name=sendable("name", name))
        return wire.from_feature((await self._call(self._stub.RearmFeature, request)).feature)

    async def history(self, name: str = "") -> AsyncIterator[HistoryEntry]:
        """What happened to a feature, or to all of them, oldest first."""
        request = pb.ListHistoryRequest(name=sendable("name", name), page_size=_HISTORY_PAGE)
        while True:
            page = await self._call(self._stub.ListHistory, request)
            for entry in page.entries:
                yield wire.from_entry(entry)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def report(self, name: str) -> RolloutReport:
        """What a review of a feature's rollout needs."""
        request = pb.GetReportRequest(name=sendable("name", name))
        return wire.from_report(await self._call(self._stub.GetReport, request))

    @property
    def _stub(self) -> rollout_pb2_grpc.RolloutServiceStub:
        if self._channel is None:
            raise RuntimeError("the client is not open; use it as `async with RolloutClient(...) as rollout:`")
        return self._rollout

    def _command(self, reason: str) -> pb.Command:
        return pb.Command(
            actor=sendable("actor", self._actor), reason=sendable("reason", reason), command_id=uuid.uuid4().hex
        )

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Any, ReplyT], request: Message) -> ReplyT:
        """Asked again where nobody answered: reading changes nothing, and a command has its id."""
        server = f"the rollout service at {self.address}"
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await call(method, request, timeout=self._timeout, server=server)
            except SluiceError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        return await call(method, request, timeout=self._timeout, server=server)
