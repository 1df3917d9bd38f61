"""The gateways, the versions that they acknowledged, and which of them are live. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.chassis.timing import timestamp
from services.rollout.snapshots import Quarantined
from sluice.rollout.v1 import rollout_pb2 as pb

FORGOTTEN_SECONDS = 60.0
"""A gateway is forgotten after this time without a word, or when it stops to count as live, if that is later."""


@dataclass(slots=True)
class Gateway:
    """A replica of the gateway. Times are seconds since 1970."""

    name: str
    version: int
    """The version that it acknowledged; 0 for none."""
    last_seen_time: float
    quarantined: tuple[Quarantined, ...] = ()
    locally_killed: tuple[str, ...] = ()

    def to_proto(self, *, live: bool) -> pb.Gateway:
        """Write it as operators see it."""
        return pb.Gateway(
            name=self.name,
            version=self.version,
            last_seen_time=timestamp(self.last_seen_time),
            live=live,
            quarantined=[pb.QuarantinedFeature(name=one.name, reason=one.reason) for one in self.quarantined],
            locally_killed=self.locally_killed,
        )


class Gateways:
    """The gateways that were heard of in the last minute.

    A gateway counts as live for `live_seconds` after the last word from it. Its lease is renewed only until
    `lease_seconds` before that: once it does not count as live, it exposes no user to a ramp. Used by the thread that
    writes and by the event loop; every step here is atomic for both.
    """

    def __init__(self, live_seconds: float, lease_seconds: float) -> None:
        self._live_seconds = live_seconds
        self._lease_seconds = lease_seconds
        self._known: dict[str, Gateway] = {}
        self.last_report_time = 0.0

    def load(self, gateways: Iterable[Gateway], now: float) -> None:
        """Start with the gateways that an earlier process knew; all of them count as seen now."""
        self._known = {gateway.name: gateway for gateway in gateways}
        for gateway in self._known.values():
            gateway.last_seen_time = now

    def known(self) -> list[Gateway]:
        """All gateways, by name."""
        return sorted(self._known.values(), key=lambda gateway: gateway.name)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, name: str, now: float) -> None:
        """Note a word from a gateway."""
        known = self._known.setdefault(name, Gateway(name, 0, now))
        known.last_seen_time = now

    def acknowledged(
        self,
        name: str,
        version: int,
        now: float,
        quarantined: tuple[Quarantined, ...] = (),
        locally_killed: tuple[str, ...] = (),
    ) -> Gateway:
        """Note the version that a gateway serves from now on."""
        self.seen(name, now)
        known = self._known[name]
        known.version, known.quarantined, known.locally_killed = version, quarantined, locally_killed
        return known

    def is_live(self, gateway: Gateway, now: float) -> bool:
        """True if it was heard of within the live time."""
        # A time far ahead is from a clock that was set back since, and no sign of life.
        return abs(now - gateway.last_seen_time) <= self._live_seconds

    def live(self, now: float) -> list[Gateway]:
        """Gateways that are live."""
        return [gateway for gateway in tuple(self._known.values()) if self.is_live(gateway, now)]

    def renewable(self, name: str, now: float) -> bool:
        """True if a gateway was heard of recently enough for its lease to go on."""
        known = self._known.get(name)
        return known is not None and abs(now - known.last_seen_time) <= self._live_seconds - self._lease_seconds

    def behind(self, version: int, now: float) -> list[Gateway]:
        """Live gateways that have not acknowledged a version, or a later one."""
        return [gateway for gateway in self.live(now) if gateway.version < version]

    def forget(self, now: float) -> list[str]:
        """Forget the gateways that were not heard of for long; return their names."""
        every, longest = tuple(self._known.values()), max(FORGOTTEN_SECONDS, self._live_seconds)
        gone = [known.name for known in every if abs(now - known.last_seen_time) > longest]
        for name in gone:
            del self._known[name]
        return gone
