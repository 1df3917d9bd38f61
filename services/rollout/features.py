"""What is rolled out: a named set of overrides, who it reaches, and where it is on its way. Pure."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, fields

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS
from services.rollout.plans import Plan

MAX_VARIANTS = 16
MAX_RERANK_CANDIDATES = 1000
EXPANSION_STRATEGIES = ("synonyms", "multi_query")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_MAX_SALT_BYTES = 128


class FeatureState(enum.Enum):
    """Where a feature is."""

    READY = "ready"
    RAMPING = "ramping"
    HELD = "held"
    COMPLETE = "complete"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"


WATCHED = frozenset({FeatureState.RAMPING, FeatureState.HELD})
"""States in which a run of evidence is under way and decided upon."""


class HoldCause(enum.Enum):
    """What keeps a feature where it is. The last three end by themselves when their cause does."""

    PERSON = "person"
    BREACH = "breach"
    MISMATCH = "mismatch"
    NO_DATA = "no data"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a feature switches in a search; None leaves it as it is without the feature."""

    dense: bool | None = None
    lexical: bool | None = None
    expansion: bool | None = None
    expansion_strategy: str | None = None
    max_variant_count: int | None = None
    rerank: bool | None = None
    rerank_candidate_count: int | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature. `control_ppm` is not the operator's: it follows from the share and the plan's holdback."""

    name: str
    description: str
    salt: str
    overrides: Overrides
    state: FeatureState = FeatureState.READY
    treatment_ppm: int = 0
    plan: Plan | None = None
    step: int = 0
    """Step of the plan, from 1; 0 before the first."""
    step_start_time: float | None = None
    """Seconds since 1970."""
    breach_count: int = 0
    """Statistical breaches since it was armed."""
    reason: str = ""
    hold_cause: HoldCause | None = None
    run: int = 0
    """Number of the run of evidence; 0 where there is none."""

    @property
    def control_ppm(self) -> int:
        """As many users as are treated, as far as there are others: what is compared is 1:1 up to a half."""
        return min(self.treatment_ppm, BUCKETS - self.treatment_ppm)

    @property
    def ramp_id(self) -> str:
        """Names the run of evidence to gateways; empty where there is none."""
        return f"{self.name}.{self.run}" if self.run else ""

    @property
    def watched(self) -> bool:
        """Whether evidence is gathered and decided upon."""
        return self.state in WATCHED and self.treatment_ppm > 0


def check_name(name: str) -> None:
    """Refuses what is no name."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument("name", "must be 1 to 64 lower case letters, digits and dashes, no dash at either end")


def check_salt(salt: str) -> None:
    """Refuses a salt that is blank, too long, or holds what separates it from the unit."""
    if not salt.strip() or len(salt.encode()) > _MAX_SALT_BYTES or not salt.isprintable():
        raise InvalidArgument("salt", f"must be 1 to {_MAX_SALT_BYTES} bytes of printable text")


def check_overrides(overrides: Overrides) -> None:
    """Refuses overrides that switch nothing, or to what there is not."""
    if all(getattr(overrides, field.name) is None for field in fields(overrides)):
        raise InvalidArgument("overrides", "are empty; set at least one thing that the feature switches")
    if overrides.dense is False and overrides.lexical is False:
        raise InvalidArgument("overrides", "switch dense and lexical both off; leave at least one of them")
    if overrides.expansion_strategy is not None and overrides.expansion_strategy not in EXPANSION_STRATEGIES:
        raise InvalidArgument("overrides.expansion_strategy", f"must be one of {', '.join(EXPANSION_STRATEGIES)}")
    _check_count("max_variant_count", overrides.max_variant_count, MAX_VARIANTS)
    _check_count("rerank_candidate_count", overrides.rerank_candidate_count, MAX_RERANK_CANDIDATES)


def check_share(field: str, ppm: int) -> None:
    """Refuses a share that is no number of buckets."""
    if not 0 <= ppm <= BUCKETS:
        raise InvalidArgument(field, f"must be between 0 and {BUCKETS:,}, not {ppm}")


def check_feature(feature: Feature) -> None:
    """Refuses a feature that gateways could not serve, wherever it comes from."""
    check_name(feature.name)
    check_salt(feature.salt)
    check_overrides(feature.overrides)
    check_share("treatment_ppm", feature.treatment_ppm)


def _check_count(name: str, given: int | None, most: int) -> None:
    if given is not None and not 1 <= given <= most:
        raise InvalidArgument(f"overrides.{name}", f"must be between 1 and {most}, not {given}")
