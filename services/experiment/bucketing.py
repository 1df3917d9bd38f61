"""Buckets of users, and arms that nest as the share grows.

The function is ours, because it must never change: a library's hash that did moved a tenth of a cohort between arms.
Its golden vectors are in the tests. The salt belongs to the feature and never changes with its share; another salt
gives all users new buckets.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Self

from services.experiment.enums import from_number
from sluice.type.v1 import arm_pb2

BUCKETS = 1_000_000
"""Shares are counted in millionths: `treatment_ppm` and `control_ppm` are numbers of buckets."""

_SEPARATOR = "\x1f"  # between salt and unit: ("a", "bc") and ("ab", "c") are not the same


class Arm(enum.Enum):
    """One side of a comparison; STANDARD is on neither side, and not compared."""

    TREATMENT = "treatment"
    CONTROL = "control"
    STANDARD = "standard"

    @classmethod
    def from_proto(cls, number: int, field: str) -> Self:
        """Read an arm. Raises InvalidArgument, naming the field, where there is none."""
        return from_number(cls, arm_pb2.Arm, number, field)

    def to_proto(self) -> arm_pb2.Arm.ValueType:
        """Write the arm."""
        return arm_pb2.Arm.Value(f"ARM_{self.name}")


class Salt:
    """A feature's salt, prepared for hashing many units."""

    def __init__(self, salt: str) -> None:
        self._hash = hashlib.sha256(encoded(f"{salt}{_SEPARATOR}"))

    def unit_hash(self, unit: bytes) -> int:
        """See `unit_hash`, for a unit from `encoded`."""
        salted = self._hash.copy()
        salted.update(unit)
        return int.from_bytes(salted.digest()[:8], "big")


def encoded(unit: str) -> bytes:
    """The bytes of a unit that are hashed. A lone surrogate, which UTF-8 cannot hold, is kept as it is."""
    return unit.encode("utf-8", "surrogatepass")


def unit_hash(salt: str, unit: str) -> int:
    """The 64 bits of a unit in evidence, from SHA-256. They make its bucket."""
    return Salt(salt).unit_hash(encoded(unit))


def bucket_of(hashed: int) -> int:
    """Bucket of a unit's hash, 0 to 999,999, without the bias of a remainder."""
    return (hashed * BUCKETS) >> 64


def bucket(salt: str, unit: str) -> int:
    """Bucket of a unit under a salt, 0 to 999,999."""
    return bucket_of(unit_hash(salt, unit))


def arm_of(bucket: int, treatment_ppm: int, control_ppm: int) -> Arm:
    """The arm of a bucket: lowest treatment, highest control, standard between.

    Treatment grows from below and control from above, so users stay in their arm while the share grows up to half;
    beyond that, treatment takes precedence. Halving takes the treatment from those who got it last.
    """
    if bucket < treatment_ppm:
        return Arm.TREATMENT
    if bucket >= BUCKETS - control_ppm:
        return Arm.CONTROL
    return Arm.STANDARD
