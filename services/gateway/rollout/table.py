"""Decides which flags are on for a request. Pure: no input, no output, no clock.

Layers decide, the strongest first:

1. **kills**: the flags that a killed feature sets are held where the feature cannot be had;
2. **the request**: its own flags, or those that the first page of its answer had;
3. **experiments** of which the user is a part, in the order of the snapshot;
4. **ramps**: features that reach the user, the latest in the snapshot first: a later feature refines an earlier one;
5. the defaults of this gateway.

A layer decides the flags that it sets, and leaves the others to the next. All is decided once, at the beginning of a
request, and stays until its end.

While a feature is *killed*, every flag that it sets is held, for all users, whatever a request or another feature
asks for. A switch that it turns on is off, even where the gateway's default is on. A switch that it turns off, and
every choice or number that it sets, is held at the gateway's default: a kill never adds work. Flags that refine a held
switch go with it. A request that asks for a held flag is answered without it and without an error; its reply says
what was on. Of two alternatives (dense, lexical) a kill of one leaves the other on, and a kill of both leaves both at
their defaults: a question is always searched for by something.

A feature *takes effect* on a request if the stronger layers leave at least one flag of it open. Only then does its
bucket count, in treatment and in control alike, so that leaving the others out does not tilt the comparison.

A user is *in* an experiment if the stronger layers leave open every flag that any of its arms sets. An experiment then
decides all of these flags in all arms alike: one that an arm leaves out is as it is for users without ramps and
experiments (complete features, then defaults). Of experiments with interleaved answers a request is in one at most.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from services.experiment.bucketing import BUCKETS, Arm, Salt, arm_of, bucket_of, encoded
from services.experiment.flags import FLAGS, FlagValue, Overrides, check_alternatives
from services.gateway.rollout.experiments import Experiment
from services.gateway.rollout.names import check_name, check_text
from services.gateway.search.flags import Features, Interleaved, resolve
from services.gateway.search.paging import Page
from sluice.gateway.v1 import search_pb2


class Reason(enum.StrEnum):
    """Reason for a request to be in neither arm of a feature; empty where it is in one."""

    NONE = ""
    NO_USER = "NO_USER"
    """It names no user, and so cannot be kept on one side."""
    NOT_SELECTED = "NOT_SELECTED"
    """Its user is between the arms."""
    KILLED = "KILLED"
    LEASE_ENDED = "LEASE_ENDED"
    """The rollout service has been silent for longer than the lease."""
    REQUEST_DECIDED = "REQUEST_DECIDED"
    """The request itself, or the page before, decides all that the feature sets."""
    OTHER_FEATURE = "OTHER_FEATURE"
    """A later feature, an experiment, or the kill of another feature, decides all that the feature sets."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """A feature on its way to users, as a snapshot has it. Raises ValueError where it makes no sense."""

    name: str
    salt: str
    """Part of the bucket's hash; never changes with the share."""
    overrides: Overrides
    treatment_ppm: int = 0
    control_ppm: int = 0
    ramp_id: str = ""
    """Name of the run of evidence; empty where none is collected."""
    lease_seconds: float = math.inf
    """Time after the last word of the service during which it still reaches users."""
    slow_seconds: float = math.inf
    """T: slower control requests are bad events, and treatment requests slower than 1.1 T."""
    shadow_ppm: int = 0
    """Share of control requests that also run the treatment off the reply's path."""

    def __post_init__(self) -> None:
        check_name("its name", self.name)
        check_text("salt", self.salt)
        check_text("ramp_id", self.ramp_id)
        if not self.salt:
            raise ValueError("it has no salt")
        if not self.overrides:
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
    def stages(self) -> set[str]:
        """Stages that act on the flags that it sets, as in "rerank"."""
        return {FLAGS[name].stage for name, value in self.overrides.values.items() if value is not False}

    @property
    def measured(self) -> bool:
        """True if its arms are compared: not once it is complete, without a holdout."""
        return bool(self.ramp_id) and (self.control_ppm > 0 or self.lease_seconds < math.inf)

    @property
    def reaches_all(self) -> bool:
        """True if it treats every user and is not measured: no hash is needed."""
        return self.treatment_ppm == BUCKETS and not self.measured

    def check(self, defaults: Features) -> None:
        """Raise InvalidArgument if it cannot be served over these defaults."""
        resolve([self.overrides], defaults)


@dataclass(frozen=True, slots=True)
class Kill:
    """A feature that is off for all users, and the flags that it sets."""

    name: str
    overrides: Overrides
    ramp_id: str = ""


class FeatureArm(NamedTuple):
    """The side of a feature on which a request is."""

    feature: str
    ramp_id: str
    arm: Arm
    reason: Reason = Reason.NONE
    """Set where the arm is STANDARD."""
    ramp: Ramp | None = None
    """Set where the arm is TREATMENT or CONTROL."""
    unit: int = 0
    """The user's hash under the feature's salt; set where the arm is TREATMENT or CONTROL and measured."""

    def to_proto(self) -> search_pb2.FeatureArm:
        """Write the side for a reply."""
        return search_pb2.FeatureArm(
            feature=self.feature,
            arm=self.arm.to_proto(),
            ramp_id=self.ramp_id,
            reason=search_pb2.ArmReason.Value(f"ARM_REASON_{self.reason or 'UNSPECIFIED'}"),
        )


class ExperimentArm(NamedTuple):
    """The part of an experiment in a request."""

    experiment: str
    run_id: str
    arm: str
    """Name of the arm; empty where the answer is interleaved."""

    def to_proto(self) -> search_pb2.ExperimentExposure:
        """Write the part for a reply."""
        return search_pb2.ExperimentExposure(experiment=self.experiment, run_id=self.run_id, arm=self.arm)


@dataclass(frozen=True, slots=True)
class Decision:
    """The flags of one request, and the reasons. Pinned until the request ends."""

    features: Features
    arms: Sequence[FeatureArm] = ()
    """One for every feature that reaches some users or is killed, in the order of the snapshot, kills first."""
    snapshot_version: int = 0
    """0 where there was no snapshot."""
    experiments: Sequence[ExperimentArm] = ()
    """Those of which the request is a part, in the order of the snapshot."""
    interleaved: Interleaved | None = None
    """Set where the answer has results of two arms; `features` are those of the first."""


class _Layers:
    """Flags decided so far, from the strongest layer down."""

    def __init__(self, defaults: Mapping[str, FlagValue]) -> None:
        self.values = dict(defaults)
        self.taken: set[str] = set()
        """Flags that weaker layers leave alone."""

    def add(self, overrides: Overrides) -> None:
        for name, value in overrides.values.items():
            if name not in self.taken:
                self.values[name] = value
        self.taken |= overrides.values.keys() | _moot(overrides)

    def copy(self) -> _Layers:
        copied = _Layers(self.values)
        copied.taken = set(self.taken)
        return copied

    @property
    def features(self) -> Features:
        return Features(**self.values)  # type: ignore[arg-type]  # every layer was checked against the table


class RolloutTable:
    """All that decides for requests that come now: kills, experiments, ramps, defaults. Immutable."""

    def __init__(
        self,
        defaults: Features,
        ramps: Iterable[Ramp] = (),
        kills: Iterable[Kill] = (),
        snapshot_version: int = 0,
        experiments: Iterable[Experiment] = (),
    ) -> None:
        """Take ramps and experiments in the order of the snapshot."""
        self.snapshot_version = snapshot_version
        self.ramps = tuple(ramps)
        self.kills = tuple(kills)
        self._defaults = defaults
        self._default_values = defaults.values
        self._held = _held(self.kills, self._default_values)
        self._killed_arms = [FeatureArm(kill.name, kill.ramp_id, Arm.STANDARD, Reason.KILLED) for kill in self.kills]
        reaching = (ramp for ramp in reversed(self.ramps) if ramp.treatment_ppm or ramp.control_ppm)
        self._latest_first = [_Prepared(ramp) for ramp in reaching]
        self.experiments = tuple(experiments)
        complete = [prepared.ramp.overrides for prepared in self._latest_first if prepared.ramp.reaches_all]
        self._experiments = [_PreparedExperiment(one, self._default_values, complete) for one in self.experiments]

    @property
    def standard(self) -> Features:
        """Flags of a request that sets none and names no user."""
        return resolve([self._held], self._defaults)

    def decide(self, unit: str, own: Overrides = Overrides(), *, silence: float = 0.0) -> Decision:  # noqa: B008  # immutable
        """Decide for one request.

        Args:
            unit: The user; empty where none is named.
            own: Flags that the request sets itself.
            silence: Seconds since the rollout service last confirmed this table's snapshot.

        Raises InvalidArgument when the request's own flags leave neither search on.
        """
        return self._decide(unit, own, silence)

    def treated(self, ramp_id: str, unit: str, own: Overrides = Overrides()) -> Features | None:  # noqa: B008  # immutable
        """Flags of a control request if its user were in treatment; None where the ramp is over."""
        if all(prepared.ramp.ramp_id != ramp_id for prepared in self._latest_first):
            return None
        return self._decide(unit, own, 0.0, treat=ramp_id).features

    def resume(self, unit: str, page: Page, *, silence: float = 0.0) -> Decision:
        """Decide for a later page: it has the flags of the first, and is a part of the same experiments.

        A page token is no proof. An experiment that has ended, of which the user is no part, or whose flags the page
        has not, is left out. The draft of an interleaved answer goes on unless its experiment is killed.
        """
        decision = self._decide(unit, page.pinned, silence)
        configurations, interleaved = [decision.features], page.interleaved
        if interleaved is not None and all(kill.name != interleaved.experiment for kill in self.kills):
            (one, _), (other, second) = interleaved.arms
            configurations.append(resolve([self._held, Overrides(**second.values)], self._defaults))
            first, second = configurations
            interleaved = replace(interleaved, arms=((one, first), (other, second)))
        else:
            interleaved = None
        parts = [
            prepared.parts[place]
            for prepared in self._experiments
            if unit and prepared.experiment.run_id in page.runs
            for place in [prepared.place_of(unit, silence)]
            if place is not None and prepared.made(place, configurations, interleaved)
        ]
        return replace(decision, experiments=parts, interleaved=interleaved)

    def _decide(self, unit: str, own: Overrides, silence: float, treat: str | None = None) -> Decision:
        layers = _Layers(self._default_values)
        layers.add(self._held)
        killed = frozenset(layers.taken)
        layers.add(own)
        strong = frozenset(layers.taken)
        check_alternatives(layers.values)
        configurations = [layers]
        parts, interleaved = self._enter(configurations, unit, silence) if unit and self._experiments else ([], None)
        arms = []
        hashable = encoded(unit)
        for prepared in self._latest_first:
            if prepared.flags <= layers.taken:
                by_request = prepared.flags <= strong and not prepared.flags <= killed
                arm = prepared.standard[Reason.REQUEST_DECIDED if by_request else Reason.OTHER_FEATURE]
            elif not unit:
                arm = prepared.standard[Reason.NO_USER]
            elif silence > prepared.ramp.lease_seconds:
                arm = prepared.standard[Reason.LEASE_ENDED]
            else:
                arm = prepared.arm_of(hashable, treat)
            arms.append(arm)
            if arm.arm is Arm.TREATMENT:
                for configuration in configurations:
                    configuration.add(prepared.ramp.overrides)
        arms.reverse()
        return Decision(
            layers.features,
            (*self._killed_arms, *arms),
            self.snapshot_version,
            parts,
            interleaved.of([configuration.features for configuration in configurations]) if interleaved else None,
        )

    def _enter(
        self, configurations: list[_Layers], unit: str, silence: float
    ) -> tuple[list[ExperimentArm], _PreparedExperiment | None]:
        """Let a user into experiments; with interleaved answers the configurations become two."""
        parts: list[ExperimentArm] = []
        interleaved = None
        for prepared in self._experiments:
            if not prepared.flags.isdisjoint(configurations[0].taken):
                continue
            place = prepared.place_of(unit, silence)
            if place is None or (prepared.experiment.interleaved and interleaved):
                continue
            if prepared.experiment.interleaved:
                interleaved = prepared
                configurations.append(configurations[0].copy())
            for number, configuration in enumerate(configurations):
                prepared.decide(configuration, number if prepared is interleaved else place)
            parts.append(prepared.parts[place])
        return parts, interleaved


class _Prepared:
    """A ramp with what is the same for all requests."""

    def __init__(self, ramp: Ramp) -> None:
        self.ramp = ramp
        self.flags = frozenset(ramp.overrides.values)
        self.standard = {reason: FeatureArm(ramp.name, ramp.ramp_id, Arm.STANDARD, reason) for reason in Reason}
        self._salt = Salt(ramp.salt)

    def arm_of(self, unit: bytes, treat: str | None) -> FeatureArm:
        """The arm of a user; treatment in any case for the ramp to treat."""
        ramp = self.ramp
        if ramp.reaches_all:
            return FeatureArm(ramp.name, ramp.ramp_id, Arm.TREATMENT, Reason.NONE, ramp)
        hashed = self._salt.unit_hash(unit)
        arm = (
            Arm.TREATMENT if ramp.ramp_id == treat else arm_of(bucket_of(hashed), ramp.treatment_ppm, ramp.control_ppm)
        )
        if arm is Arm.STANDARD:
            return self.standard[Reason.NOT_SELECTED]
        return FeatureArm(ramp.name, ramp.ramp_id, arm, Reason.NONE, ramp, hashed)


class _PreparedExperiment:
    """An experiment with what is the same for all requests."""

    def __init__(
        self, experiment: Experiment, defaults: Mapping[str, FlagValue], complete: Sequence[Overrides]
    ) -> None:
        """Take the flags of complete features, the strongest first."""
        self.experiment = experiment
        self.flags = experiment.flags
        self.parts = [
            ExperimentArm(experiment.name, experiment.run_id, "" if experiment.interleaved else name)
            for name, _ in experiment.arms
        ]
        self._values: list[Mapping[str, FlagValue]] = []
        self._taken = set(self.flags)
        for _, overrides in experiment.arms:
            layers = _Layers(defaults)
            for weaker in (overrides, *complete):
                layers.add(weaker)
            whole = Overrides(**{name: layers.values[name] for name in self.flags})
            self._values.append(whole.values)
            self._taken |= _moot(whole)

    def place_of(self, unit: str, silence: float) -> int | None:
        """Place of a user's arm; None for a user who is not in it, or after the lease."""
        return None if silence > self.experiment.lease_seconds else self.experiment.layered.arm_of(unit)

    def decide(self, layers: _Layers, place: int) -> None:
        """Decide its flags, as an arm has them."""
        layers.values.update(self._values[place])
        layers.taken |= self._taken

    def of(self, configurations: Sequence[Features]) -> Interleaved:
        """Write what makes an answer of two configurations."""
        (one, _), (other, _) = self.experiment.arms
        first, second = configurations
        experiment = self.experiment
        return Interleaved(experiment.name, experiment.run_id, experiment.layered.salt, ((one, first), (other, second)))

    def made(self, place: int, configurations: Sequence[Features], interleaved: Interleaved | None) -> bool:
        """True if a page with these configurations, the second for a draft, is one of this arm."""
        if not self.experiment.interleaved:
            return self._is(configurations[0], place)
        return (
            interleaved is not None
            and interleaved == self.of(configurations)
            and all(self._is(features, number) for number, features in enumerate(configurations))
        )

    def _is(self, features: Features, place: int) -> bool:
        return all(getattr(features, name) == value for name, value in self._values[place].items())


def _moot(overrides: Overrides) -> set[str]:
    """Flags that a layer leaves no choice: those that refine one it turns off, and the alternative of one."""
    off = {name for name, value in overrides.values.items() if value is False}
    return {flag.name for flag in FLAGS.values() if flag.refines in off or flag.unless in off} if off else set()


def _held(kills: Sequence[Kill], standard: Mapping[str, FlagValue]) -> Overrides:
    """The strongest layer: the flags that kills hold, each with its value."""
    held: dict[str, FlagValue] = {}
    for kill in kills:
        for name, value in kill.overrides.values.items():
            if value is True:
                held[name] = False
            else:
                held.setdefault(name, standard[name])
    off = {name for name, value in held.items() if value is False}
    for flag in FLAGS.values():
        if flag.refines in off:
            held[flag.name] = standard[flag.name]
        elif flag.unless in off:
            held[flag.name] = standard[flag.name] if flag.name in off else True
    return Overrides(**held)
