"""The flags of one request, all decided, and the layers that decide them. Pure.

Of several layers the strongest that sets a flag wins: kills, then the request, then ramps, then the defaults of this
gateway. `services.gateway.rollout.table` makes the layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.experiment.flags import FLAGS, FlagValue, Overrides, check_alternatives
from sluice.type.v1 import features_pb2


@dataclass(frozen=True, slots=True)
class Features:
    """The flags of one request, all decided, with the product's defaults. One field for every flag of the table."""

    dense: bool = True
    lexical: bool = True
    expansion: bool = False
    expansion_strategy: str = "synonyms"
    max_variant_count: int = 5
    rerank: bool = False
    rerank_candidate_count: int = 50
    rerank_method: str = "late"
    cascade_count: int = 8
    multi_hop: bool = False
    max_hops: int = 1
    reasoning: bool = False

    @property
    def values(self) -> dict[str, FlagValue]:
        """All flags by name."""
        return {name: getattr(self, name) for name in FLAGS}

    def to_proto(self) -> features_pb2.Features:
        """Write all flags, into a message that is shared: do not change it."""
        return _to_proto(self)


@dataclass(frozen=True, slots=True)
class Interleaved:
    """An experiment whose answers have results of two arms, as it is for one request."""

    experiment: str
    run_id: str
    salt: str
    """Part of the coin's hash."""
    arms: tuple[tuple[str, Features], tuple[str, Features]]
    """Name and flags of each arm, the control first."""


def resolve(layers: Sequence[Overrides], defaults: Features) -> Features:
    """Decide every flag: the first layer that sets it wins, else the default.

    Raises InvalidArgument when two flags are off of which one must stay on.
    """
    values = defaults.values
    for layer in reversed(layers):
        values |= layer.values
    check_alternatives(values)
    return Features(**values)  # type: ignore[arg-type]  # every layer was checked against the table


@lru_cache
def _to_proto(features: Features) -> features_pb2.Features:
    return Overrides(**features.values).to_proto()
