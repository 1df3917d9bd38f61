"""Layers of experiments: experiments of one layer never share a user, those of different layers are independent.

All users have a bucket in each layer, and each experiment of the layer has a range of these buckets of its own. The arm
is drawn by another salt, that of the experiment, so that the users of a range are spread over the arms by chance, and
over those of the next experiment in that range anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.experiment.bucketing import BUCKETS, Salt, bucket_of, encoded

MOST_ARMS = 8


@dataclass(frozen=True, slots=True)
class Layered:
    """The users of an experiment, and their arms. Raises ValueError where it makes no sense."""

    layer_salt: str
    """The same for all experiments of a layer."""
    first_bucket: int
    """First of the layer's buckets that are its own."""
    bucket_count: int
    """Number of its buckets, of `BUCKETS`."""
    salt: str
    """That of the arms."""
    arms: int
    """Number of arms, which share the users evenly."""
    _layer: Salt = field(init=False, repr=False, compare=False)
    _own: Salt = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.layer_salt or not self.salt:
            raise ValueError("it has no salt of its arms, or none of its layer")
        if self.layer_salt == self.salt:
            raise ValueError("the salt of its arms is that of its layer: arms would not be drawn by chance")
        if not (self.first_bucket >= 0 and self.bucket_count > 0 and self._end <= BUCKETS):
            raise ValueError(f"its buckets from {self.first_bucket} to {self._end} are not among 0 to {BUCKETS}")
        if not 2 <= self.arms <= MOST_ARMS:
            raise ValueError(f"it has {self.arms} arms, not 2 to {MOST_ARMS}")
        object.__setattr__(self, "_layer", Salt(self.layer_salt))
        object.__setattr__(self, "_own", Salt(self.salt))

    @property
    def _end(self) -> int:
        return self.first_bucket + self.bucket_count

    def arm_of(self, unit: str) -> int | None:
        """Place of a user's arm, from 0; None for a user who is not in the experiment."""
        hashable = encoded(unit)
        if not self.first_bucket <= bucket_of(self._layer.unit_hash(hashable)) < self._end:
            return None
        return bucket_of(self._own.unit_hash(hashable)) * self.arms // BUCKETS

    def shares_users(self, other: Layered) -> bool:
        """True if a user may be in both because they claim the same buckets of one layer."""
        return self.layer_salt == other.layer_salt and self.first_bucket < other._end and other.first_bucket < self._end
