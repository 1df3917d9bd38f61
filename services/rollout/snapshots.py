"""Snapshots: the features and experiments that gateways have to know, each valid on its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.chassis.timing import duration, timestamp
from services.experiment.flags import Overrides
from services.experiment.snapshot_hash import content_hash
from services.rollout.experiments.experiments import Experiment
from services.rollout.experiments.plan import check_plan
from services.rollout.features import Feature, FeatureState, check_feature
from sluice.rollout.v1 import rollout_pb2 as pb


@dataclass(frozen=True, slots=True)
class SnapshotFeature:
    """One feature as gateways need it."""

    name: str
    salt: str
    overrides: Overrides
    killed: bool
    treatment_ppm: int
    control_ppm: int
    ramp_id: str
    leased: bool
    """True if exposure ends when the service is silent; a complete feature needs no watching."""
    latency_threshold: float | None
    shadow_ppm: int

    def to_snapshot(self, lease_seconds: float) -> pb.SnapshotFeature:
        """Write it with a lease, if it has one."""
        return pb.SnapshotFeature(
            name=self.name,
            salt=self.salt,
            features=self.overrides.to_proto(),
            killed=self.killed,
            treatment_ppm=self.treatment_ppm,
            control_ppm=self.control_ppm,
            ramp_id=self.ramp_id,
            lease_duration=duration(lease_seconds) if self.leased else None,
            latency_threshold=None if self.latency_threshold is None else duration(self.latency_threshold),
            shadow_ppm=self.shadow_ppm,
        )


@dataclass(frozen=True, slots=True)
class SealedSnapshot:
    """A snapshot as it is kept and sent: its features are encoded once."""

    version: int
    content_hash: str
    create_time: float
    """Seconds since 1970."""
    body: bytes
    """A RolloutSnapshot with its features alone."""

    @classmethod
    def of(
        cls, features: Sequence[SnapshotFeature | Experiment], version: int, create_time: float, lease_seconds: float
    ) -> SealedSnapshot:
        """Encode the features and experiments of a snapshot."""
        encoded = [feature.to_snapshot(lease_seconds) for feature in features]
        body = pb.RolloutSnapshot(features=encoded).SerializeToString(deterministic=True)
        return cls(version, content_hash(encoded), create_time, body)

    def to_proto(self) -> pb.RolloutSnapshot:
        """Write the snapshot as gateways get it."""
        snapshot = pb.RolloutSnapshot.FromString(self.body)
        snapshot.version = self.version
        snapshot.content_hash = self.content_hash
        snapshot.create_time.CopyFrom(timestamp(self.create_time))
        return snapshot


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A feature that is not served, alone."""

    name: str
    reason: str


def snapshot_of(
    features: Sequence[Feature], thresholds: dict[int, float | None], experiments: Sequence[Experiment] = ()
) -> tuple[list[SnapshotFeature | Experiment], list[Quarantined]]:
    """Split features into those served, in the order in which they were made (the later wins), and those not.

    `thresholds` are the runs' latency thresholds. A feature that does not hold what it must is left out alone, and so
    is off; a kill goes through whatever else is wrong with it. The experiments, those that run, come after.
    """
    served: list[SnapshotFeature | Experiment] = []
    quarantined: list[Quarantined] = []
    for feature in features:
        killed = feature.state is FeatureState.KILLED
        try:
            check_feature(feature)
        except InvalidArgument as error:
            quarantined.append(Quarantined(feature.name, error.message))
            if not killed:
                continue
        shares = (0, 0) if killed else (feature.treatment_ppm, feature.control_ppm if feature.watched else 0)
        served.append(
            SnapshotFeature(
                name=feature.name,
                salt=feature.salt,
                overrides=feature.overrides,
                killed=killed,
                treatment_ppm=shares[0],
                control_ppm=shares[1],
                ramp_id=feature.ramp_id,
                leased=feature.watched,
                latency_threshold=thresholds.get(feature.run),
                shadow_ppm=feature.plan.shadow_ppm if feature.plan and feature.watched else 0,
            )
        )
    for experiment in experiments:
        try:
            check_plan(experiment.plan)
        except InvalidArgument as error:
            quarantined.append(Quarantined(experiment.name, error.message))
        else:
            served.append(experiment)
    return served, quarantined
