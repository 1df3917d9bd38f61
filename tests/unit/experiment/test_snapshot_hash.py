from __future__ import annotations

from services.experiment.snapshot_hash import content_hash
from sluice.rollout.v1.rollout_pb2 import SnapshotFeature
from sluice.type.v1.features_pb2 import Features

RERANK = SnapshotFeature(name="rerank-v1", salt="rerank-v1", features=Features(rerank=True), treatment_ppm=100_000)
EXPAND = SnapshotFeature(name="expand-v1", salt="expand-v1", features=Features(expansion=True))


def test_the_hash_is_golden() -> None:
    assert content_hash([RERANK, EXPAND]) == "34a972bf1e254a648e131faaa647c13ed609f409d9d71c3d4aeb5fc3a18aa3f0"


def test_order_has_a_meaning() -> None:
    assert content_hash([RERANK, EXPAND]) != content_hash([EXPAND, RERANK])


def test_no_features_are_a_content_like_any_other() -> None:
    assert content_hash([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_field_of_a_newer_release_is_part_of_the_content() -> None:
    newer = SnapshotFeature.FromString(RERANK.SerializeToString() + b"\xf8\x06\x01")  # field 111, a number
    assert content_hash([newer]) != content_hash([RERANK])
    assert content_hash([SnapshotFeature.FromString(newer.SerializeToString())]) == content_hash([newer])
