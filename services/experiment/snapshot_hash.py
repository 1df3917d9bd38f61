"""Hash of a rollout snapshot's content, which the control plane and the gateways compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from google.protobuf.message import Message


def content_hash(features: Iterable[Message]) -> str:
    """SHA-256, in hex, of a snapshot's features in their order, which has a meaning: the later feature wins.

    Each goes in as the length of its serialized form, eight bytes little-endian, and that form with its fields in the
    order of their numbers. Fields that only a newer release knows are part of it, so that old gateways can check the
    snapshots of a new control plane.
    """
    digest = hashlib.sha256()
    for feature in features:
        raw = feature.SerializeToString(deterministic=True)
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
