"""Which users a feature reaches: a bucket of a million for every user, and arms that nest as the share grows.

The function is ours, because it must never change: a library's hash that did moved a tenth of a cohort between arms.
Its golden vectors are in the tests. The salt belongs to the feature and never changes with its share; another salt
deals all users anew.
"""

from __future__ import annotations

import enum
import hashlib

BUCKETS = 1_000_000
"""Shares are counted in millionths: `treatment_ppm` and `control_ppm` are numbers of buckets."""

_SEPARATOR = "\x1f"  # between salt and unit: ("a", "bc") and ("ab", "c") are not the same


class Arm(enum.Enum):
    """One side of a comparison; what is in neither is STANDARD, and not compared."""

    TREATMENT = "treatment"
    CONTROL = "control"
    STANDARD = "standard"


def unit_hash(salt: str, unit: str) -> int:
    """The 64 bits that stand for a unit in evidence, and that its bucket is made of.

    The first eight bytes of SHA-256. A lone surrogate, which no UTF-8 can hold, is hashed as it is.
    """
    text = f"{salt}{_SEPARATOR}{unit}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def bucket_of(hashed: int) -> int:
    """The bucket, 0 to 999,999, of a unit's hash: as even as the hash itself, without the bias of a remainder."""
    return (hashed * BUCKETS) >> 64


def bucket(salt: str, unit: str) -> int:
    """The bucket of a unit under a salt, 0 to 999,999."""
    return bucket_of(unit_hash(salt, unit))


def arm_of(bucket: int, treatment_ppm: int, control_ppm: int) -> Arm:
    """The arm of a bucket: the lowest are treatment, the highest control, those between standard.

    As treatment grows from below and control from above, whoever is in an arm stays in it while the share grows up to
    half, and treatment takes precedence beyond that. Halving takes the treatment from those who got it last.
    """
    if bucket < treatment_ppm:
        return Arm.TREATMENT
    if bucket >= BUCKETS - control_ppm:
        return Arm.CONTROL
    return Arm.STANDARD
