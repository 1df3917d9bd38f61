"""Hash of a rollout snapshot's content, which the control plane and the gateways compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from google.protobuf.message import Message


def content_hash(features: Iterable[Message]) -> str:
    """SHA-256, in hex, of the features of a snapshot. Their order counts, because the later feature wins.

    Each feature adds the length of its serialized form, eight bytes little-endian, and that form, with its fields in
    the order of their numbers. Fields of a newer release are part of it, so that old gateways can check the snapshots
    of a new control plane.
    """
    digest = hashlib.sha256()
    for feature in features:
        raw = feature.SerializeToString(deterministic=True)
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()
