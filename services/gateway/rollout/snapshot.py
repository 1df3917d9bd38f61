"""Snapshots of the rollout service, from the wire or from disk, checked and turned into ramps, experiments and kills.

A snapshot is taken whole or refused whole: refused where its hash does not match (truncated, damaged), and where it is
older than what is served. Versions of one store never fall, so a lower version means either an old message, or a store
that was reset or restored from a backup. The two are told apart by when they were made: a lower version is taken only
if it was made later.

Within a snapshot that is taken, each feature is checked alone. One that makes no sense is quarantined: it reaches
nobody, and the others go on. A kill goes through whatever else is wrong with its feature. And a kill stays until a
snapshot names the feature, valid and not killed: a snapshot that lost it switches nothing on again. That of an
experiment, which reaches nobody without a snapshot that names it, ends with its entry.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from services.chassis.errors import InvalidArgument
from services.experiment.flags import Overrides
from services.experiment.layers import Layered
from services.experiment.snapshot_hash import content_hash
from services.gateway.rollout.experiments import Experiment
from services.gateway.rollout.table import Kill, Ramp
from services.gateway.search.flags import Features
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1 import experiment_pb2

MAX_FEATURES = 1_000
MAX_FILE_BYTES = 8 * 2**20
# A longer lease would leave a gateway that is cut off exposing users for hours.
MAX_LEASE_SECONDS = 3600.0


class Refused(Exception):
    """A snapshot is not served; `reason` is OLDER or CORRUPT."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A feature that is not served, with a readable reason."""

    name: str
    reason: str
    overrides: Overrides
    """The flags that it sets, as far as they can be read, with legal values: needed for a kill."""


@dataclass(frozen=True, slots=True)
class Served:
    """A snapshot that was accepted."""

    snapshot: pb.RolloutSnapshot
    ramps: Sequence[Ramp]
    experiments: Sequence[Experiment]
    kills: Sequence[Kill]
    quarantined: Sequence[Quarantined]
    kept: Sequence[pb.SnapshotFeature]
    """Killed features of earlier snapshots that this one does not contain."""

    @property
    def version(self) -> int:
        """Version of the snapshot."""
        return self.snapshot.version

    @property
    def content_hash(self) -> str:
        """Hash of its features."""
        return self.snapshot.content_hash


def serve(
    snapshot: pb.RolloutSnapshot,
    defaults: Features,
    *,
    before: Served | None = None,
    kept: Iterable[pb.SnapshotFeature] = (),
) -> Served:
    """Check a snapshot against the one before, and each of its features against these defaults.

    Raises Refused.
    """
    if snapshot.version < 1 or len(snapshot.features) > MAX_FEATURES:
        raise Refused("CORRUPT", f"it has version {snapshot.version} and {len(snapshot.features)} features")
    if content_hash(snapshot.features) != snapshot.content_hash:
        raise Refused("CORRUPT", "its features are not those of its hash")
    if before is not None:
        _refuse_older(snapshot, before.snapshot)
        kept = [feature for feature in (*before.snapshot.features, *before.kept) if feature.killed]
    kept = [feature for feature in kept if not feature.HasField("experiment")]
    kills = {feature.name: feature for feature in snapshot.features if feature.killed}
    counts = Counter(feature.name for feature in snapshot.features)
    ramps: dict[str, Ramp] = {}
    experiments: dict[str, Experiment] = {}
    quarantined: dict[str, Quarantined] = {}
    for feature in snapshot.features:
        try:
            if counts[feature.name] > 1:
                raise ValueError("there are several features of this name")
            if feature.HasField("experiment"):
                experiment = _experiment(feature, experiments.values())
                experiment.check(defaults)
                experiments[experiment.name] = experiment
                continue
            ramp = _ramp(feature)
            ramp.check(defaults)
        except (ValueError, InvalidArgument) as problem:
            name = feature.name[:64]
            quarantined[name] = Quarantined(name, str(problem), Overrides.nearest_to(feature.features))
        else:
            ramps[ramp.name] = ramp
    still_killed = {
        feature.name: feature
        for feature in kept
        if feature.name not in ramps and feature.name not in experiments and feature.name not in kills
    }
    known = {ramp.name: ramp.overrides for ramp in before.ramps} if before else {}
    known |= {kill.name: kill.overrides for kill in before.kills} if before else {}
    return Served(
        snapshot=snapshot,
        ramps=[ramp for ramp in ramps.values() if ramp.name not in kills],
        experiments=[experiment for experiment in experiments.values() if experiment.name not in kills],
        kills=[_kill(feature, known.get(feature.name)) for feature in (kills | still_killed).values()],
        quarantined=list(quarantined.values()),
        kept=list(still_killed.values()),
    )


class SnapshotFile:
    """The last good snapshot on disk, for a gateway that starts while the service is away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, defaults: Features) -> Served | None:
        """Load the saved snapshot; None where there is none. Raises Refused for a damaged file."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused("CORRUPT", f"it cannot be read: {error.strerror or error}") from None
        if len(raw) > MAX_FILE_BYTES:
            raise Refused("CORRUPT", f"it is larger than {MAX_FILE_BYTES // 2**20} MiB")
        try:
            content = json.loads(raw)
            parts = [base64.b64decode(part, validate=True) for part in (content["snapshot"], *content["kept_kills"])]
            if content["sha256"] != _checksum(parts):
                raise Refused("CORRUPT", "its content is not that of its checksum")
            snapshot, *kept = parts
            features = [pb.SnapshotFeature.FromString(part) for part in kept]
            return serve(pb.RolloutSnapshot.FromString(snapshot), defaults, kept=features)
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, DecodeError):
            raise Refused("CORRUPT", "it is no snapshot, or only a part of one") from None

    def save(self, served: Served) -> None:
        """Replace the file as a whole, or leave it as it was and raise OSError."""
        parts = [message.SerializeToString(deterministic=True) for message in (served.snapshot, *served.kept)]
        snapshot, *kept = [base64.b64encode(part).decode() for part in parts]
        content: dict[str, Any] = {"sha256": _checksum(parts), "snapshot": snapshot, "kept_kills": kept}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                unfinished.unlink()


def _refuse_older(snapshot: pb.RolloutSnapshot, before: pb.RolloutSnapshot) -> None:
    made_later = _moment(snapshot) > _moment(before)
    if snapshot.version < before.version and not made_later:
        raise Refused("OLDER", f"it has version {snapshot.version}, and {before.version} is served")
    if snapshot.version == before.version and snapshot.content_hash != before.content_hash and not made_later:
        raise Refused("OLDER", f"another snapshot of version {snapshot.version} is served")


def _moment(snapshot: pb.RolloutSnapshot) -> tuple[int, int]:
    return snapshot.create_time.seconds, snapshot.create_time.nanos


def _checksum(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _ramp(feature: pb.SnapshotFeature) -> Ramp:
    """Read a ramp. Raises ValueError or InvalidArgument where it makes no sense."""
    return Ramp(
        name=feature.name,
        salt=feature.salt,
        overrides=Overrides.from_proto(feature.features),
        treatment_ppm=feature.treatment_ppm,
        control_ppm=feature.control_ppm,
        ramp_id=feature.ramp_id,
        lease_seconds=_lease(feature),
        slow_seconds=_seconds(feature.latency_threshold) if feature.HasField("latency_threshold") else math.inf,
        shadow_ppm=feature.shadow_ppm,
    )


def _experiment(feature: pb.SnapshotFeature, others: Iterable[Experiment]) -> Experiment:
    """Read an experiment, beside others that come before it. Raises ValueError or InvalidArgument."""
    served = feature.experiment
    if feature.HasField("features") or feature.treatment_ppm or feature.control_ppm or feature.shadow_ppm:
        raise ValueError("it is an experiment, and has flags or shares of its own")
    if served.method not in (experiment_pb2.EXPERIMENT_METHOD_AB, experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE):
        raise ValueError(f"its method {served.method} is unknown here")
    experiment = Experiment(
        name=feature.name,
        run_id=feature.ramp_id,
        layered=Layered(
            served.layer_salt, served.first_bucket, served.bucket_count, feature.salt, arms=len(served.arms)
        ),
        arms=[(arm.name, Overrides.from_proto(arm.features)) for arm in served.arms],
        interleaved=served.method == experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE,
        lease_seconds=_lease(feature),
    )
    for other in others:
        if experiment.layered.shares_users(other.layered):
            raise ValueError(f"it shares users with {other.name}, which is in the same layer")
    return experiment


def _kill(feature: pb.SnapshotFeature, known: Overrides | None) -> Kill:
    """Read a kill: it holds the flags that can be read, or those known from before where none can be."""
    return Kill(feature.name[:64], Overrides.nearest_to(feature.features) or known or Overrides(), feature.ramp_id)


def _lease(feature: pb.SnapshotFeature) -> float:
    lease = _seconds(feature.lease_duration) if feature.HasField("lease_duration") else math.inf
    if MAX_LEASE_SECONDS < lease < math.inf:
        raise ValueError(f"its lease is longer than {MAX_LEASE_SECONDS:.0f} seconds")
    return lease


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
