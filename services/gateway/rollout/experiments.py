"""Experiments, as a snapshot has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.experiment.flags import Overrides
from services.experiment.layers import Layered
from services.gateway.rollout.names import check_name, check_text
from services.gateway.search.flags import Features, resolve


@dataclass(frozen=True, slots=True)
class Experiment:
    """Configurations that are compared. Raises ValueError where it makes no sense."""

    name: str
    run_id: str
    layered: Layered
    arms: Sequence[tuple[str, Overrides]]
    """Name and flags of each arm, the control first."""
    interleaved: bool = False
    """True if each answer has results of both arms; else each user has one arm."""
    lease_seconds: float = 10.0
    """Time after the last word of the service during which users are in it."""

    def __post_init__(self) -> None:
        check_name("its name", self.name)
        for what, text in (
            ("run", self.run_id),
            ("salt", self.layered.salt),
            ("layer's salt", self.layered.layer_salt),
        ):
            check_text(what, text)
        if not self.run_id:
            raise ValueError("it names no run")
        names = [name for name, _ in self.arms]
        for name in names:
            check_name("the name of an arm", name)
        if len(set(names)) < len(names) or len(names) != self.layered.arms:
            raise ValueError("its arms have not each a name of their own")
        if self.interleaved and len(names) != 2:  # a draft has two teams
            raise ValueError(f"it has {len(names)} arms, and an answer is made of two")
        if not self.flags:
            raise ValueError("its arms set nothing")
        if not 0 < self.lease_seconds < math.inf:
            raise ValueError("its lease is over before it begins, or has no end")

    @property
    def flags(self) -> frozenset[str]:
        """Every flag that any of its arms sets."""
        return frozenset(flag for _, overrides in self.arms for flag in overrides.values)

    def check(self, defaults: Features) -> None:
        """Raise InvalidArgument if one of its arms cannot be served over these defaults."""
        for _, overrides in self.arms:
            resolve([overrides], defaults)
