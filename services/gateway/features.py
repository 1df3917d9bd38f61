"""What is on for a request. Pure: no input, no output, no clock.

The answer is made of layers, the strongest first: what the request says, then (one day) what a rollout says, then
the defaults of this gateway. A layer decides the features that it sets and leaves the others to the next.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from services.common.errors import InvalidArgument

MAX_VARIANTS = 16
MAX_RERANK_CANDIDATES = 1000


class ExpansionStrategy(enum.Enum):
    """How variants of a query are made."""

    SYNONYMS = "synonyms"
    MULTI_QUERY = "multi_query"


@dataclass(frozen=True, slots=True)
class Features:
    """What is on, every feature decided."""

    dense: bool = True
    lexical: bool = True
    expansion: bool = False
    expansion_strategy: ExpansionStrategy = ExpansionStrategy.SYNONYMS
    max_variant_count: int = 5
    rerank: bool = False
    rerank_candidate_count: int = 20


@dataclass(frozen=True, slots=True)
class FeatureOverrides:
    """What one layer decides; None leaves a feature to the next layer."""

    dense: bool | None = None
    lexical: bool | None = None
    expansion: bool | None = None
    expansion_strategy: ExpansionStrategy | None = None
    max_variant_count: int | None = None
    rerank: bool | None = None
    rerank_candidate_count: int | None = None

    def __post_init__(self) -> None:
        _check_count("max_variant_count", self.max_variant_count, MAX_VARIANTS)
        _check_count("rerank_candidate_count", self.rerank_candidate_count, MAX_RERANK_CANDIDATES)


def resolve(layers: Sequence[FeatureOverrides], defaults: Features) -> Features:
    """Decides every feature: the first layer that sets it wins, else the default.

    Raises InvalidArgument when neither the dense nor the lexical search is left on.
    """
    decided = defaults
    for layer in reversed(layers):
        decisions = {field.name: getattr(layer, field.name) for field in fields(layer)}
        decided = replace(decided, **{name: value for name, value in decisions.items() if value is not None})
    if not (decided.dense or decided.lexical):
        raise InvalidArgument("features", "dense and lexical are both off; leave at least one of them on")
    return decided


def _check_count(name: str, given: int | None, most: int) -> None:
    if given is not None and not 1 <= given <= most:
        raise InvalidArgument(f"features.{name}", f"must be between 1 and {most}, not {given}")
