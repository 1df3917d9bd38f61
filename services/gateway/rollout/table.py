"""What is on for a request. Pure: no input, no output, no clock.

The answer is made of layers, the strongest first:

1. **kills**: flags that a killed feature sets are held where the feature cannot be had;
2. **the request**: its own flags, or those that the first page of its answer had;
3. **ramps**: features that reach the user, the latest in the snapshot first: a later feature refines an earlier one;
4. the defaults of this gateway.

A layer decides the flags that it sets and leaves the others to the next. Everything is decided once, at the beginning
of a request, and belongs to it until its end.

What a *kill* means, since requests ask for flags and not for features: while a feature is killed, every flag that it
sets is held, for everybody, whatever a request or another feature says. What it switches on is off, even where the
gateway's default is on. What it switches off, and every strategy or number that it sets, is held at the gateway's
default: a kill never adds work. What belongs to something that is off goes with it: `rerank_candidate_count` with
`rerank`, the strategy and the number of variants with `expansion`. A request that asks for a held flag is answered
without it and without an error; its reply says what was on. A kill of one search leaves the other on, and a kill of
both leaves both as they are by default: a question is always searched for by something.

A feature *takes effect* on a request if at least one flag that it sets is left to it by the stronger layers. Only then
does its bucket count, in treatment and in control alike, so that leaving the others out does not tilt the comparison.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from services.chassis.errors import InvalidArgument
from services.experiment.bucketing import BUCKETS, Arm

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


def _check_count(name: str, given: int | None, most: int) -> None:
    if given is not None and not 1 <= given <= most:
        raise InvalidArgument(f"features.{name}", f"must be between 1 and {most}, not {given}")


NOTHING = FeatureOverrides()
"""A layer that leaves everything to the next."""

_BITS = {entry.name: 1 << place for place, entry in enumerate(fields(Features))}
_DENSE, _LEXICAL = _BITS["dense"], _BITS["lexical"]
_OF_EXPANSION = _BITS["expansion_strategy"] | _BITS["max_variant_count"]
_OF_RERANK = _BITS["rerank_candidate_count"]


class Reason(enum.StrEnum):
    """Why a request is in neither arm of a feature; empty where it is in one."""

    NONE = ""
    NO_USER = "NO_USER"
    """It names no user, and what cannot be kept on one side is left out."""
    NOT_SELECTED = "NOT_SELECTED"
    """Its user is between the arms."""
    KILLED = "KILLED"
    LEASE_ENDED = "LEASE_ENDED"
    """The rollout service has not been heard of for too long."""
    REQUEST_DECIDED = "REQUEST_DECIDED"
    """The request itself, or the page before, decides all that the feature sets."""
    OTHER_FEATURE = "OTHER_FEATURE"
    """A later feature, or the kill of another, decides all that the feature sets."""


_PLAIN_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MOST_TEXT = 256


@dataclass(frozen=True, slots=True)
class Ramp:
    """A feature on its way to users, as a snapshot has it. Raises ValueError, for people, where it makes no sense."""

    name: str
    salt: str
    """Goes into the bucket, and never changes with the share."""
    overrides: FeatureOverrides
    treatment_ppm: int = 0
    control_ppm: int = 0
    ramp_id: str = ""
    """Names the run of evidence; empty where none is collected."""
    lease_seconds: float = math.inf
    """So long after the last word of the service it still reaches users."""
    slow_seconds: float = math.inf
    """T: slower control requests are bad events, and treatment requests slower than 1.1 T."""
    shadow_ppm: int = 0
    """Share of control requests that also run the treatment off the reply's path."""

    def __post_init__(self) -> None:
        if not _PLAIN_NAME.fullmatch(self.name):
            raise ValueError("its name is not made of 1 to 64 lower case letters, digits and dashes")
        for what, text in (("salt", self.salt), ("ramp_id", self.ramp_id)):
            if len(text) > _MOST_TEXT or "\x1f" in text:
                raise ValueError(f"its {what} is longer than {_MOST_TEXT} characters, or holds a separator (0x1f)")
        if not self.salt:
            raise ValueError("it has no salt")
        if self.overrides == NOTHING:
            raise ValueError("it overrides nothing")
        for name in ("treatment_ppm", "control_ppm", "shadow_ppm"):
            if not 0 <= getattr(self, name) <= BUCKETS:
                raise ValueError(f"its {name} is {getattr(self, name)}, not between 0 and {BUCKETS}")
        if self.treatment_ppm + self.control_ppm > BUCKETS:
            raise ValueError(f"its arms overlap: {self.treatment_ppm} + {self.control_ppm} of {BUCKETS}")
        if not self.lease_seconds > 0:
            raise ValueError("its lease is over before it begins")
        if not self.slow_seconds > 0:
            raise ValueError("its latency threshold is not above zero")

    @property
    def measured(self) -> bool:
        """Whether there is something to learn from its arms: not once it is complete, without a holdback."""
        return bool(self.ramp_id) and (self.control_ppm > 0 or self.lease_seconds < math.inf)

    def problem(self, defaults: Features) -> str:
        """Why it cannot be served over these defaults, for people; empty where it can."""
        dense = defaults.dense if self.overrides.dense is None else self.overrides.dense
        lexical = defaults.lexical if self.overrides.lexical is None else self.overrides.lexical
        return "" if dense or lexical else "it leaves neither the dense nor the lexical search on"


@dataclass(frozen=True, slots=True)
class Kill:
    """A feature that is off for everybody, and the flags that it sets."""

    name: str
    overrides: FeatureOverrides
    ramp_id: str = ""


class FeatureArm(NamedTuple):
    """On which side of a feature a request is."""

    feature: str
    ramp_id: str
    arm: Arm
    reason: Reason = Reason.NONE
    """Set where the arm is STANDARD."""
    ramp: Ramp | None = None
    """Set where the arm is TREATMENT or CONTROL."""
    unit: int = 0
    """The user's hash under the feature's salt; set where the arm is TREATMENT or CONTROL and measured."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is on for one request, and why. Pinned until the request ends."""

    features: Features
    arms: Sequence[FeatureArm] = ()
    """Of every feature that reaches somebody or is killed, in the order of the snapshot, kills first."""
    snapshot_version: int = 0
    """0 where no snapshot was there."""


def resolve(layers: Sequence[FeatureOverrides], defaults: Features) -> Features:
    """Decides every feature: the first layer that sets it wins, else the default.

    Raises InvalidArgument when neither the dense nor the lexical search is left on.
    """
    decided = list(astuple(defaults))
    for layer in reversed(layers):
        for place, value in enumerate(_values(layer)):
            if value is not None:
                decided[place] = value
    features = Features(*decided)
    if not (features.dense or features.lexical):
        raise InvalidArgument("features", "dense and lexical are both off; leave at least one of them on")
    return features


def combine(stronger: FeatureOverrides, weaker: FeatureOverrides) -> FeatureOverrides:
    """Two layers as one."""
    return FeatureOverrides(
        *(weak if strong is None else strong for strong, weak in zip(_values(stronger), _values(weaker), strict=True))
    )


class RolloutTable:
    """All that decides for requests that come now: the kills, the ramps, the defaults. Immutable but for its memory.

    A decision depends on the user and on what the request sets, so it is remembered for the users of late.
    """

    MEMORY = 8192
    """Decisions remembered, some 12 MB of them with 50 features."""

    def __init__(
        self,
        defaults: Features,
        ramps: Iterable[Ramp] = (),
        kills: Iterable[Kill] = (),
        snapshot_version: int = 0,
    ) -> None:
        """`ramps` are in the order of the snapshot."""
        self.snapshot_version = snapshot_version
        self.ramps = tuple(ramps)
        self.kills = tuple(kills)
        self._defaults = defaults
        self._held = _held(self.kills, defaults)
        self._killed_arms = [FeatureArm(kill.name, kill.ramp_id, Arm.STANDARD, Reason.KILLED) for kill in self.kills]
        reaching = [ramp for ramp in self.ramps if ramp.treatment_ppm or ramp.control_ppm]
        salts = list(dict.fromkeys(ramp.salt for ramp in reaching if not _reaches_everybody(ramp)))
        self._prefixes = [f"{salt}\x1f".encode("utf-8", "surrogatepass") for salt in salts]
        self._latest_first = [
            _Prepared(ramp, salts.index(ramp.salt) if ramp.salt in salts else 0) for ramp in reversed(reaching)
        ]
        self._shortest_lease = min((ramp.lease_seconds for ramp in reaching), default=math.inf)
        # Decided while all leases hold.
        self.remembered = lru_cache(self.MEMORY)(lambda unit, own: self._decide(unit, own, 0.0))

    @property
    def standard(self) -> Features:
        """What is on for a request that says nothing and names nobody."""
        return resolve([self._held], self._defaults)

    def decide(self, unit: str, own: FeatureOverrides = NOTHING, *, silence: float = 0.0) -> Decision:
        """Decides for one request.

        Args:
            unit: Who asks; empty where nobody is named.
            own: What the request sets itself.
            silence: Seconds since the rollout service last confirmed this table's snapshot.

        Raises InvalidArgument when the request's own flags leave neither search on.
        """
        if silence > self._shortest_lease:
            return self._decide(unit, own, silence)
        return self.remembered(unit, own)

    def treated(self, ramp_id: str, unit: str, own: FeatureOverrides = NOTHING) -> Features | None:
        """What would be on for a control request if its user were in treatment; None where the ramp is over."""
        if all(prepared.ramp.ramp_id != ramp_id for prepared in self._latest_first):
            return None
        return self._decide(unit, own, 0.0, treat=ramp_id).features

    def _decide(self, unit: str, own: FeatureOverrides, silence: float, treat: str | None = None) -> Decision:
        values = list(astuple(self._defaults))
        killed = _apply(self._held, 0, values)
        strong = taken = _apply(own, killed, values)
        if not (values[0] or values[1]):
            raise InvalidArgument("features", "dense and lexical are both off; leave at least one of them on")
        arms: list[FeatureArm] = []
        unit_bytes = unit.encode("utf-8", "surrogatepass")
        digests = [sha256(prefix + unit_bytes).digest() for prefix in self._prefixes] if unit else []
        lapsing = silence > self._shortest_lease
        for prepared in self._latest_first:
            mask = prepared.mask
            if not mask & ~taken:
                arms.append(prepared.decided_by_request if mask & ~killed and not mask & ~strong else prepared.other)
                continue
            if not unit:
                arms.append(prepared.no_user)
                continue
            if lapsing and silence > prepared.ramp.lease_seconds:
                arms.append(prepared.lease_ended)
                continue
            if prepared.everybody is not None:
                arm = prepared.everybody
            else:
                digest = digests[prepared.salt]
                # As bytes compare, so do the numbers that they are: no bucket needs to be computed.
                if prepared.treatment_below <= digest < prepared.control_from and treat is None:
                    arms.append(prepared.not_selected)
                    continue
                arm = prepared.arm_of(digest, treat)
            arms.append(arm)
            if arm.arm is Arm.TREATMENT:
                for bit, place, value in prepared.settings:
                    if not taken & bit:
                        values[place] = value
                taken |= prepared.takes
        arms.reverse()
        return Decision(Features(*values), (*self._killed_arms, *arms), self.snapshot_version)


class _Prepared:
    """A ramp, with all that is the same for every request worked out."""

    def __init__(self, ramp: Ramp, salt: int) -> None:
        """`salt` is its number among all salts."""
        self.ramp = ramp
        self.salt = salt
        self.mask = _mask(ramp.overrides)
        self.takes = _takes(ramp.overrides)
        self.settings = [
            (1 << place, place, value) for place, value in enumerate(_values(ramp.overrides)) if value is not None
        ]
        self.treatment_below = _first_digest_of(ramp.treatment_ppm)
        self.control_from = _first_digest_of(BUCKETS - ramp.control_ppm)
        self.no_user = self._standard(Reason.NO_USER)
        self.not_selected = self._standard(Reason.NOT_SELECTED)
        self.lease_ended = self._standard(Reason.LEASE_ENDED)
        self.decided_by_request = self._standard(Reason.REQUEST_DECIDED)
        self.other = self._standard(Reason.OTHER_FEATURE)
        self.everybody = None
        if _reaches_everybody(ramp):
            self.everybody = FeatureArm(ramp.name, ramp.ramp_id, Arm.TREATMENT, Reason.NONE, ramp)

    def arm_of(self, digest: bytes, treat: str | None) -> FeatureArm:
        """The arm of a digest; treatment whatever it is, where this is the ramp to treat."""
        ramp = self.ramp
        if digest < self.treatment_below or ramp.ramp_id == treat:
            arm = Arm.TREATMENT
        elif digest >= self.control_from:
            arm = Arm.CONTROL
        else:
            return self.not_selected
        return FeatureArm(ramp.name, ramp.ramp_id, arm, Reason.NONE, ramp, int.from_bytes(digest[:8], "big"))

    def _standard(self, reason: Reason) -> FeatureArm:
        return FeatureArm(self.ramp.name, self.ramp.ramp_id, Arm.STANDARD, reason)


def _reaches_everybody(ramp: Ramp) -> bool:
    """Whether no bucket decides, and no evidence wants a hash."""
    return ramp.treatment_ppm == BUCKETS and not ramp.measured


def _first_digest_of(bucket: int) -> bytes:
    """The least digest whose bucket is this one or a higher one; above all digests for the end of the buckets.

    bucket(n) = n * BUCKETS >> 64 >= bucket, if and only if n >= bucket * 2**64 / BUCKETS.
    """
    if bucket == BUCKETS:
        return b"\xff" * (sha256().digest_size + 1)
    return (-(-(bucket << 64) // BUCKETS)).to_bytes(8, "big")


def _values(overrides: FeatureOverrides) -> tuple[Any, ...]:
    return (
        overrides.dense,
        overrides.lexical,
        overrides.expansion,
        overrides.expansion_strategy,
        overrides.max_variant_count,
        overrides.rerank,
        overrides.rerank_candidate_count,
    )


def _mask(overrides: FeatureOverrides) -> int:
    """A bit for every flag that is set."""
    return sum(1 << place for place, value in enumerate(_values(overrides)) if value is not None)


def _takes(overrides: FeatureOverrides) -> int:
    """A bit for every flag that a weaker layer must leave alone: those set, and those that these leave no choice."""
    taken = _mask(overrides)
    if overrides.expansion is False:
        taken |= _OF_EXPANSION
    if overrides.rerank is False:
        taken |= _OF_RERANK
    if overrides.dense is False:
        taken |= _LEXICAL
    if overrides.lexical is False:
        taken |= _DENSE
    return taken


def _apply(overrides: FeatureOverrides, taken: int, values: list[Any]) -> int:
    """Writes what a layer sets and nothing stronger has taken; returns all that is taken then."""
    if overrides is NOTHING:
        return taken
    for place, value in enumerate(_values(overrides)):
        if value is not None and not taken & 1 << place:
            values[place] = value
    return taken | _takes(overrides)


def _held(kills: Sequence[Kill], defaults: Features) -> FeatureOverrides:
    """The strongest layer: what kills hold, and where."""
    if not kills:
        return NOTHING
    held: dict[str, Any] = {}
    for kill in kills:
        for name, value, default in zip(_BITS, _values(kill.overrides), astuple(defaults), strict=True):
            if value is True:
                held[name] = False
            elif value is not None:
                held.setdefault(name, default)
    if held.get("expansion") is False:
        held |= {"expansion_strategy": defaults.expansion_strategy, "max_variant_count": defaults.max_variant_count}
    if held.get("rerank") is False:
        held |= {"rerank_candidate_count": defaults.rerank_candidate_count}
    dense, lexical = held.get("dense"), held.get("lexical")
    if dense is False and lexical is False:
        held |= {"dense": defaults.dense, "lexical": defaults.lexical}
    elif dense is False:
        held["lexical"] = True
    elif lexical is False:
        held["dense"] = True
    return FeatureOverrides(**held)
