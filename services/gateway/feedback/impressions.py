"""Impressions: pages as they were served, signed. Pure.

A token is the message `Impression` and its HMAC-SHA256. So nothing has to be stored for an answer that nobody acts on,
and an event about an answer that was never served, or was served otherwise, is found out by the token alone.

The first key signs and all of them verify, so that a new key can come first before the old one goes. Hashes of users
are made by the last one, and so outlast the new key; when the old one goes, all users are new ones.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from services.experiment.bucketing import encoded
from services.gateway.rollout.table import Decision, FeatureArm
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer
from sluice.type.v1.impression_pb2 import Exposure, Impression

_HASH = "sha256"
_SIGNATURE_BYTES = 32
_UNIT_BYTES = 8
_TEXT_HASH_BYTES = 16
_HASHED = "hmac:"


class Origin(NamedTuple):
    """Names the request of an answer, and those who asked."""

    query_id: str
    user_id: str
    tenant: str


class Impressions:
    """Makes, signs and verifies impressions."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take at least one key."""
        self._signing = [_derived(key, "impression") for key in keys]
        self._units = _derived(keys[-1], "unit")
        self._texts = _derived(keys[-1], "text")

    def of(
        self, origin: Origin, question: Question, decision: Decision, answer: Answer | None, microseconds: int
    ) -> Impression:
        """Make the impression of a page, of one without an answer too. The time is in microseconds since 1970."""
        results = answer.results if answer else ()
        impression = Impression(
            query_id=origin.query_id,
            collection=question.collection,
            unit=self.unit(origin.user_id),
            object_ids=[result.passage.id for result in results],
            first_position=results[0].rank if results else question.offset + 1,
            tenant=origin.tenant,
        )
        impression.time.FromMicroseconds(microseconds)
        for part in decision.experiments:
            teams = () if part.arm else [result.team for result in results]
            impression.exposures.add(experiment=part.experiment, run_id=part.run_id, arm=part.arm, teams=teams)
        impression.exposures.extend(_ramps(decision.arms))
        return impression

    def sign(self, impression: Impression) -> bytes:
        """Make the token of an impression."""
        payload = impression.SerializeToString()
        return payload + hmac.digest(self._signing[0], payload, _HASH)

    def verified(self, token: bytes) -> Impression | None:
        """Read a token; None for one that was not signed here."""
        payload, signature = token[:-_SIGNATURE_BYTES], token[-_SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(hmac.digest(key, payload, _HASH), signature) for key in self._signing):
            return None
        try:
            return Impression.FromString(payload)
        except DecodeError:
            return None  # signed by a release that says it otherwise

    def unit(self, user_id: str) -> int:
        """The keyed hash of a user; 0 for none."""
        if not user_id:
            return 0
        return int.from_bytes(hmac.digest(self._units, encoded(user_id), _HASH)[:_UNIT_BYTES], "big")

    def hashed(self, text: str) -> str:
        """The keyed hash of a text, which tells equal texts from different ones; empty for an empty one."""
        if not text:
            return ""
        return _HASHED + hmac.digest(self._texts, encoded(text), _HASH)[:_TEXT_HASH_BYTES].hex()


def _derived(key: str, purpose: str) -> bytes:
    """A key for one purpose alone, so that a hash is never a signature."""
    return hmac.digest(key.encode(), f"sluice {purpose}".encode(), _HASH)


def _ramps(arms: Sequence[FeatureArm]) -> Iterator[Exposure]:
    """The features that are being rolled out, of which a request counts."""
    for arm in arms:
        if arm.ramp is not None and arm.ramp.measured:
            yield Exposure(experiment=arm.feature, run_id=arm.ramp_id, arm=arm.arm.value)
