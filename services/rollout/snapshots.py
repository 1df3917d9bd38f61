"""What gateways are told: the features that matter to them, each valid on its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.rollout.features import Feature, FeatureState, Overrides, check_feature


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
    """Whether exposure ends when the service is silent; a complete feature needs nobody to watch it."""
    latency_threshold: float | None
    shadow_ppm: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A feature that is not served, alone."""

    name: str
    reason: str


def snapshot_of(
    features: Sequence[Feature], thresholds: dict[int, float | None]
) -> tuple[list[SnapshotFeature], list[Quarantined]]:
    """What is served, in the order in which the features were made (the later one wins), and what is not.

    `thresholds` are the runs' latency thresholds. A feature that does not hold what it must is left out alone, and so
    is off; a kill goes through whatever else is wrong with it.
    """
    served: list[SnapshotFeature] = []
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
    return served, quarantined
