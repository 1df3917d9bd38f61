"""Features: named sets of overrides, the share of users that they reach, and their state. Pure."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator

from services.chassis.errors import InvalidArgument
from services.chassis.timing import timestamp
from services.experiment.bucketing import BUCKETS
from services.experiment.flags import Overrides, check_alternatives
from services.rollout.plans import Plan
from sluice.rollout.v1 import rollout_pb2 as pb

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_MAX_SALT_BYTES = 128


class FeatureState(enum.Enum):
    """Progress of a feature."""

    READY = "ready"
    RAMPING = "ramping"
    HELD = "held"
    COMPLETE = "complete"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"

    def to_proto(self) -> pb.FeatureState.ValueType:
        """Write the state."""
        return pb.FeatureState.Value(f"FEATURE_STATE_{self.name}")


WATCHED = frozenset({FeatureState.RAMPING, FeatureState.HELD})
"""States in which a run of evidence is under way and decided upon."""


class HoldCause(enum.Enum):
    """Cause of a hold. The last three end by themselves when their cause does."""

    PERSON = "person"
    BREACH = "breach"
    MISMATCH = "mismatch"
    NO_DATA = "no data"
    STALE = "stale"


class HistoryAction(enum.Enum):
    """Something that happens to a feature, or to an experiment."""

    CREATED = "created"
    STARTED = "started"
    PROMOTED = "promoted"
    HELD = "held"
    RESUMED = "resumed"
    SHARE_SET = "share_set"
    HALVED = "halved"
    ROLLED_BACK = "rolled_back"
    KILLED = "killed"
    REARMED = "rearmed"
    COMPLETED = "completed"
    STOPPED = "stopped"
    """An experiment was ended by a person."""
    DECIDED = "decided"
    """An experiment was ended by its evidence, or by its horizon."""


def _read_overrides(stored: Any) -> Overrides:
    if isinstance(stored, Overrides):
        return stored
    try:
        return Overrides(**stored)
    except (InvalidArgument, TypeError) as error:
        raise ValueError(str(error)) from None


StoredOverrides = Annotated[
    Overrides, PlainValidator(_read_overrides), PlainSerializer(lambda overrides: dict(overrides.values))
]


@dataclass(frozen=True, slots=True)
class Feature:
    """A named set of overrides on its way to users."""

    name: str
    description: str
    salt: str
    overrides: StoredOverrides
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
        """Share of control: as large as treatment, as far as users are left; 1:1 up to a half."""
        return min(self.treatment_ppm, BUCKETS - self.treatment_ppm)

    @property
    def ramp_id(self) -> str:
        """Name of the run of evidence for gateways; empty where there is none."""
        return f"{self.name}.{self.run}" if self.run else ""

    @property
    def watched(self) -> bool:
        """True while evidence is gathered and decided upon."""
        return self.state in WATCHED and self.treatment_ppm > 0

    def to_proto(self) -> pb.Feature:
        """Write it as operators see it."""
        message = pb.Feature(
            name=self.name,
            description=self.description,
            salt=self.salt,
            features=self.overrides.to_proto(),
            state=self.state.to_proto(),
            treatment_ppm=self.treatment_ppm,
            step=self.step,
            breach_count=self.breach_count,
            reason=self.reason,
            ramp_id=self.ramp_id,
        )
        if self.plan is not None:
            message.plan.CopyFrom(self.plan.to_proto())
        if self.step_start_time is not None:
            message.step_start_time.CopyFrom(timestamp(self.step_start_time))
        return message


def check_name(name: str, field: str = "name") -> None:
    """Raise InvalidArgument, naming the field, unless it is a legal name."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(field, "must be 1 to 64 lower case letters, digits and dashes, no dash at either end")


def check_salt(salt: str) -> None:
    """Raise InvalidArgument for a salt that is blank, too long or not printable."""
    if not salt.strip() or len(salt.encode()) > _MAX_SALT_BYTES or not salt.isprintable():
        raise InvalidArgument("salt", f"must be 1 to {_MAX_SALT_BYTES} bytes of printable text")


def check_share(field: str, ppm: int) -> None:
    """Raise InvalidArgument unless it is a number of buckets."""
    if not 0 <= ppm <= BUCKETS:
        raise InvalidArgument(field, f"must be between 0 and {BUCKETS:,}, not {ppm}")


def check_feature(feature: Feature) -> None:
    """Raise InvalidArgument for a feature that gateways could not serve."""
    check_name(feature.name)
    check_salt(feature.salt)
    if not feature.overrides:
        raise InvalidArgument("features", "are empty; set at least one flag")
    check_alternatives(feature.overrides.values)
    check_share("treatment_ppm", feature.treatment_ppm)
