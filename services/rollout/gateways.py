"""Who serves what: the gateways, what they acknowledged, and which of them are live. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.rollout.snapshots import Quarantined

FORGOTTEN_SECONDS = 3600.0


@dataclass(slots=True)
class Gateway:
    """A replica of the gateway. Times are seconds since 1970."""

    name: str
    version: int
    """The version that it acknowledged; 0 for none."""
    last_seen_time: float
    quarantined: tuple[Quarantined, ...] = ()
    locally_killed: tuple[str, ...] = ()


class Gateways:
    """All that were heard of lately.

    A gateway counts as live for `live_seconds` after the last word from it. Its lease is renewed only until
    `lease_seconds` before that: when it counts no more, it exposes nobody to what is on a ramp. Used by the thread that
    writes and by the event loop; every step here is atomic for both.
    """

    def __init__(self, live_seconds: float, lease_seconds: float) -> None:
        self._live_seconds = live_seconds
        self._lease_seconds = lease_seconds
        self._known: dict[str, Gateway] = {}
        self.last_report_time = 0.0

    def load(self, gateways: Iterable[Gateway], now: float) -> None:
        """Begins anew with what an earlier process knew; all of them may still be there, and so count as seen now."""
        self._known = {gateway.name: gateway for gateway in gateways}
        for gateway in self._known.values():
            gateway.last_seen_time = max(gateway.last_seen_time, now)

    def known(self) -> list[Gateway]:
        """All of them, by name."""
        return sorted(self._known.values(), key=lambda gateway: gateway.name)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, name: str, now: float) -> None:
        """A word from a gateway."""
        known = self._known.setdefault(name, Gateway(name, 0, now))
        known.last_seen_time = max(known.last_seen_time, now)

    def acknowledged(
        self,
        name: str,
        version: int,
        now: float,
        quarantined: tuple[Quarantined, ...] = (),
        locally_killed: tuple[str, ...] = (),
    ) -> Gateway:
        """A gateway serves this version from now on."""
        self.seen(name, now)
        known = self._known[name]
        known.version, known.quarantined, known.locally_killed = version, quarantined, locally_killed
        return known

    def is_live(self, gateway: Gateway, now: float) -> bool:
        """Whether it was heard of lately."""
        return now - gateway.last_seen_time <= self._live_seconds

    def live(self, now: float) -> list[Gateway]:
        """Those that are live."""
        return [gateway for gateway in tuple(self._known.values()) if self.is_live(gateway, now)]

    def renewable(self, name: str, now: float) -> bool:
        """Whether a gateway was heard of so lately that its lease may go on."""
        known = self._known.get(name)
        return known is not None and now - known.last_seen_time <= self._live_seconds - self._lease_seconds

    def behind(self, version: int, now: float) -> list[Gateway]:
        """Live ones that have not acknowledged a version, or a later one."""
        return [gateway for gateway in self.live(now) if gateway.version < version]

    def forget(self, now: float) -> list[str]:
        """Forgets those that were not heard of for an hour; their names."""
        every = tuple(self._known.values())
        gone = [known.name for known in every if now - known.last_seen_time > FORGOTTEN_SECONDS]
        for name in gone:
            del self._known[name]
        return gone
