"""Channels to the stages."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from services.chassis import tls
from services.chassis.breaker import Breaker
from services.chassis.client import StageChannel
from services.chassis.timing import in_background
from services.gateway.metrics import GatewayMetrics
from services.gateway.rpc.reasoner_client import ReasonerClient
from services.gateway.settings import GatewaySettings

# Services that may have been paid for by the time a call fails.
_PAID = {ReasonerClient.service}


class Channels:
    """Opens channels with the same settings, and closes them at the end."""

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        """Raise StartupError where a file of TLS cannot be read."""
        self._settings = settings
        self._metrics = metrics
        self._renewals = tls.renewals(settings)
        self._credentials = tls.channel_credentials(settings)
        self._opened: list[StageChannel] = []
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(in_background(self._renew()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.__aexit__(kind, error, trace)

    def opened(self, address: str, service: str, *, breaker: Breaker | None = None) -> StageChannel:
        """Open a channel to the replicas of a service."""
        channel = StageChannel(
            address,
            service=service,
            retries=service not in _PAID,
            breaker=breaker,
            max_message_mib=self._settings.max_message_mib,
            credentials=self._credentials,
        )
        self._opened.append(channel)
        self._open.push_async_exit(channel)
        return channel

    async def _renew(self) -> None:
        async for credentials in self._renewals:
            self._credentials = credentials
            for channel in self._opened:
                channel.renew(credentials)

    def guarded(self, address: str, service: str) -> StageChannel:
        """Open a channel with a breaker, which metrics name after the stage."""
        stage = service.split(".")[1]
        self._metrics.stage_breaker_open.labels(stage).set(0)
        breaker = Breaker(
            stage,
            failures=self._settings.breaker_failures,
            reset_seconds=self._settings.breaker_reset_seconds,
            on_transition=self._metrics.breaker_changed,
        )
        return self.opened(address, service, breaker=breaker)
