from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from services.experiment.flags import Overrides
from services.experiment.layers import Layered
from services.experiment.snapshot_hash import content_hash
from services.gateway.rollout.snapshot import Refused, Served, SnapshotFile, serve
from services.gateway.rollout.table import RolloutTable
from services.gateway.search.flags import Features
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1 import experiment_pb2, features_pb2


def feature(name: str = "rerank-v1", **fields: Any) -> pb.SnapshotFeature:
    given: dict[str, Any] = {
        "salt": name,
        "features": features_pb2.Features(rerank=True, rerank_candidate_count=50),
        "treatment_ppm": 100_000,
        "control_ppm": 100_000,
        "ramp_id": f"{name}/1",
        "lease_duration": Duration(seconds=10),
    }
    return pb.SnapshotFeature(name=name, **given | fields)


def snapshot(*features: pb.SnapshotFeature, version: int = 1, made: int | None = None) -> pb.Snapshot:
    built = pb.RolloutSnapshot(version=version, content_hash=content_hash(features), features=features)
    built.create_time.FromSeconds(1_000_000 + (version if made is None else made))
    return built


def names(served: Served) -> tuple[list[str], list[str], list[str]]:
    return (
        [ramp.name for ramp in served.ramps],
        [kill.name for kill in served.kills],
        [entry.name for entry in served.quarantined],
    )


def test_a_snapshot_says_all_that_a_ramp_needs() -> None:
    given = feature(latency_threshold=Duration(nanos=250_000_000), shadow_ppm=7, lease_duration=None)
    (ramp,) = serve(snapshot(given), Features()).ramps
    assert ramp.overrides == Overrides(rerank=True, rerank_candidate_count=50)
    assert (ramp.salt, ramp.treatment_ppm, ramp.control_ppm, ramp.ramp_id) == (
        "rerank-v1",
        100_000,
        100_000,
        "rerank-v1/1",
    )
    assert (ramp.lease_seconds, ramp.slow_seconds, ramp.shadow_ppm) == (math.inf, 0.25, 7)


MALFORMED = {
    "name": feature("Rerank v1"),
    "no name": feature(""),
    "salt": feature(salt=""),
    "overrides": feature(features=features_pb2.Features()),
    "count": feature(features=features_pb2.Features(rerank_candidate_count=100_000)),
    "strategy": feature(features=features_pb2.Features(expansion_strategy=99)),
    "search": feature(features=features_pb2.Features(dense=False, lexical=False)),
    "negative": feature(treatment_ppm=-1),
    "too much": feature(treatment_ppm=2_000_000),
    "overlapping": feature(treatment_ppm=600_000, control_ppm=600_000),
    "no lease": feature(lease_duration=Duration(seconds=0)),
    "lease without end": feature(lease_duration=Duration(seconds=2**40)),
    "threshold": feature(latency_threshold=Duration(seconds=-1)),
}


@pytest.mark.parametrize("problem", MALFORMED)
def test_a_feature_that_makes_no_sense_is_quarantined_alone(problem: str) -> None:
    malformed = MALFORMED[problem]
    served = serve(snapshot(feature("good-v1"), malformed, feature("bad-v1", killed=True)), Features())
    assert names(served) == (["good-v1"], ["bad-v1"], [malformed.name])
    assert served.quarantined[0].reason


@pytest.mark.parametrize("problem", MALFORMED)
def test_a_kill_goes_through_whatever_else_is_wrong_with_its_feature(problem: str) -> None:
    killed = pb.SnapshotFeature()
    killed.CopyFrom(MALFORMED[problem])
    killed.killed = True
    before = serve(snapshot(feature(MALFORMED[problem].name or "rerank-v1")), Features()) if problem != "name" else None
    served = serve(snapshot(killed, version=2), Features(), before=before)
    assert [kill.name for kill in served.kills] == [killed.name]
    assert not served.ramps
    if killed.features.rerank:
        table = RolloutTable(Features(), served.ramps, served.kills)
        assert table.decide("user-42", Overrides(rerank=True)).features.rerank is False


def test_a_kill_whose_feature_cannot_be_read_holds_what_was_known_of_it() -> None:
    before = serve(snapshot(feature()), Features())
    served = serve(
        snapshot(feature(features=features_pb2.Features(), killed=True), version=2), Features(), before=before
    )
    assert served.kills[0].overrides.values["rerank"] is True


def test_features_of_the_same_name_are_all_quarantined() -> None:
    twice = snapshot(feature("a"), feature("a", treatment_ppm=1, control_ppm=1), feature("b"))
    assert names(serve(twice, Features())) == (["b"], [], ["a"])


def test_a_feature_that_leaves_no_search_over_these_defaults_is_quarantined() -> None:
    given = snapshot(feature(features=features_pb2.Features(dense=False)))
    assert names(serve(given, Features()))[2] == []
    assert names(serve(given, Features(lexical=False)))[2] == ["rerank-v1"]


@pytest.mark.parametrize("version", [0, -5])
def test_a_snapshot_without_a_version_is_refused(version: int) -> None:
    with pytest.raises(Refused, match="version"):
        serve(snapshot(version=version), Features())


def test_a_truncated_snapshot_is_refused_whole() -> None:
    truncated = snapshot(feature("a"), feature("b"))
    del truncated.features[1]
    with pytest.raises(Refused, match="hash") as refused:
        serve(truncated, Features())
    assert refused.value.reason == "CORRUPT"


def test_an_older_snapshot_is_refused_unless_it_was_made_later() -> None:
    before = serve(snapshot(feature(), version=7), Features())
    for version, made in ((6, 6), (6, 7), (1, 1)):
        with pytest.raises(Refused, match="7 is served") as refused:
            serve(snapshot(version=version, made=made), Features(), before=before)
        assert refused.value.reason == "OLDER"
    assert serve(snapshot(version=1, made=8), Features(), before=before).version == 1
    assert serve(snapshot(version=8, made=1), Features(), before=before).version == 8


def test_another_snapshot_of_the_same_version_is_refused() -> None:
    before = serve(snapshot(feature(), version=7), Features())
    with pytest.raises(Refused, match="another snapshot of version 7"):
        serve(snapshot(version=7), Features(), before=before)


def test_an_emptied_snapshot_takes_features_back_and_lifts_no_kill() -> None:
    before = serve(snapshot(feature("a"), feature("b", killed=True)), Features())
    emptied = serve(snapshot(version=2), Features(), before=before)
    assert names(emptied) == ([], ["b"], [])
    again = serve(snapshot(feature("a"), version=3), Features(), before=emptied)
    assert names(again) == (["a"], ["b"], [])


def test_only_a_valid_feature_that_is_not_killed_lifts_a_kill() -> None:
    before = serve(snapshot(feature("b", killed=True)), Features())
    malformed = serve(snapshot(feature("b", salt=""), version=2), Features(), before=before)
    assert names(malformed) == ([], ["b"], ["b"])
    lifted = serve(snapshot(feature("b"), version=3), Features(), before=malformed)
    assert names(lifted) == (["b"], [], [])


# On disk


@pytest.fixture
def file(tmp_path: Path) -> SnapshotFile:
    return SnapshotFile(tmp_path / "deep" / "snapshot.json")


def test_what_is_saved_is_what_is_loaded_kept_kills_and_all(file: SnapshotFile) -> None:
    assert file.load(Features()) is None
    before = serve(snapshot(feature("a"), feature("b", killed=True)), Features())
    served = serve(snapshot(feature("a"), feature("c", salt=""), version=2), Features(), before=before)
    file.save(served)
    loaded = file.load(Features())
    assert loaded is not None
    assert names(loaded) == names(served) == (["a"], ["b"], ["c"])
    assert loaded.snapshot == served.snapshot
    assert [path.name for path in file.path.parent.iterdir()] == ["snapshot.json"]


def test_a_file_cut_off_anywhere_or_changed_anywhere_is_refused(file: SnapshotFile) -> None:
    file.save(serve(snapshot(feature("a"), feature("b", killed=True)), Features()))
    whole = file.path.read_bytes()
    draw = random.Random(7)
    for place in range(0, len(whole), 37):
        file.path.write_bytes(whole[:place])
        with pytest.raises(Refused):
            file.load(Features())
    for _ in range(50):
        place = draw.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(7)
        file.path.write_bytes(changed)
        try:
            loaded = file.load(Features())
        except Refused:
            continue
        assert loaded is not None
        assert names(loaded) == (["a"], ["b"], [])  # a blank, or the case of a letter in a name of JSON's


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{}", "[" * 100_000, '{"sha256": 1, "snapshot": 2, "kept_kills": 3}', "\0" * 100, "é" * 10],
)
def test_a_file_that_is_no_snapshot_is_refused(file: SnapshotFile, content: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(content)
    with pytest.raises(Refused):
        file.load(Features())


def test_a_file_too_large_to_be_a_snapshot_is_not_read(file: SnapshotFile) -> None:
    file.path.parent.mkdir()
    with file.path.open("wb") as huge:
        huge.truncate(2**40)
    with pytest.raises(Refused, match="larger than"):
        file.load(Features())


def test_a_forged_file_still_has_its_features_checked(file: SnapshotFile) -> None:
    file.save(serve(snapshot(feature("a", salt=""), feature("b")), Features()))
    loaded = file.load(Features())
    assert loaded is not None
    assert names(loaded) == (["b"], [], ["a"])


def test_a_folder_that_cannot_be_written_leaves_what_was_there(file: SnapshotFile) -> None:
    served = serve(snapshot(feature("a")), Features())
    file.path.parent.mkdir()
    file.path.mkdir()
    with pytest.raises(OSError, match="snapshot"):
        file.save(served)
    assert [path.name for path in file.path.parent.iterdir()] == ["snapshot.json"]


@given(st.binary(max_size=300))
def test_bytes_of_anybody_are_a_snapshot_or_refused(raw: bytes) -> None:
    try:
        parsed = pb.Snapshot.FromString(raw)
    except Exception:
        return
    parsed.content_hash = content_hash(parsed.features)
    parsed.version = 1
    serve(parsed, Features())


def test_the_file_is_json_for_people_who_must_know(file: SnapshotFile) -> None:
    file.save(serve(snapshot(feature("a")), Features()))
    assert set(json.loads(file.path.read_text())) == {"sha256", "snapshot", "kept_kills"}


def experiment(name: str = "ranking", *, killed: bool = False, arms: Any = None, **fields: Any) -> pb.SnapshotFeature:
    given: dict[str, Any] = {
        "method": experiment_pb2.EXPERIMENT_METHOD_AB,
        "layer_salt": "default",
        "first_bucket": 0,
        "bucket_count": 1_000,
        "arms": [
            experiment_pb2.ExperimentArm(name=arm, features=features_pb2.Features(rerank=rerank))
            for arm, rerank in (("control", None), ("reranked", True))
        ]
        if arms is None
        else arms,
    }
    served = {name: fields.pop(name, value) for name, value in given.items()}
    around: dict[str, Any] = {"salt": name, "ramp_id": f"{name}/1", "lease_duration": Duration(seconds=10)}
    return pb.SnapshotFeature(
        name=name, killed=killed, experiment=experiment_pb2.ServedExperiment(**served), **around | fields
    )


def test_a_snapshot_says_all_that_an_experiment_needs() -> None:
    given = experiment(method=experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE, first_bucket=7)
    (read,) = serve(snapshot(given, feature()), Features()).experiments
    assert (read.name, read.run_id, read.interleaved, read.lease_seconds) == ("ranking", "ranking/1", True, 10.0)
    assert read.layered == Layered("default", 7, 1_000, "ranking", arms=2)
    assert read.arms == [("control", Overrides()), ("reranked", Overrides(rerank=True))]


NO_EXPERIMENTS = {
    "method": experiment(method=9),
    "no method": experiment(method=0),
    "buckets": experiment(first_bucket=999_999),
    "no buckets": experiment(bucket_count=0),
    "one arm": experiment(arms=[experiment_pb2.ExperimentArm(name="one", features=features_pb2.Features(rerank=True))]),
    "arms that set nothing": experiment(
        arms=[experiment_pb2.ExperimentArm(name=name, features=features_pb2.Features()) for name in ("one", "two")]
    ),
    "an arm that no gateway can serve": experiment(
        arms=[
            experiment_pb2.ExperimentArm(name=name, features=features_pb2.Features(lexical=False, dense=dense))
            for name, dense in (("one", True), ("two", False))
        ]
    ),
    "salt": experiment(salt=""),
    "layer": experiment(layer_salt=""),
    "the same salt": experiment(salt="default"),
    "run": experiment(ramp_id=""),
    "lease without end": experiment(lease_duration=None),
    "lease": experiment(lease_duration=Duration(seconds=2**40)),
    "flags of its own": experiment(features=features_pb2.Features(rerank=True)),
    "a share of its own": experiment(treatment_ppm=10),
}


@pytest.mark.parametrize("problem", NO_EXPERIMENTS)
def test_an_experiment_that_makes_no_sense_is_quarantined_alone(problem: str) -> None:
    good = experiment("good", first_bucket=500_000, layer_salt="other")
    served = serve(snapshot(feature(), NO_EXPERIMENTS[problem], good), Features())
    assert names(served) == (["rerank-v1"], [], ["ranking"])
    assert [read.name for read in served.experiments] == ["good"]


def test_an_experiment_with_the_users_of_another_in_its_layer_is_quarantined() -> None:
    served = serve(snapshot(experiment("one"), experiment("two", first_bucket=999)), Features())
    assert [read.name for read in served.experiments] == ["one"]
    assert "one" in served.quarantined[0].reason
    apart = serve(snapshot(experiment("one"), experiment("two", first_bucket=1_000)), Features())
    assert [read.name for read in apart.experiments] == ["one", "two"]


def test_features_and_experiments_have_one_space_of_names() -> None:
    served = serve(snapshot(feature("ranking"), experiment("ranking")), Features())
    assert (served.ramps, served.experiments) == ([], [])
    assert [entry.name for entry in served.quarantined] == ["ranking"]


@pytest.mark.parametrize("given", [experiment(killed=True), experiment(killed=True, bucket_count=0)])
def test_a_killed_experiment_reaches_nobody_and_is_forgotten_with_its_entry(given: pb.SnapshotFeature) -> None:
    served = serve(snapshot(given), Features())
    assert (served.experiments, [kill.name for kill in served.kills]) == ([], ["ranking"])
    table = RolloutTable(Features(), served.ramps, served.kills, 1, served.experiments)
    assert table.decide("user-42", Overrides(rerank=True)).features.rerank is True
    assert serve(snapshot(version=2), Features(), before=served).kills == []


def test_experiments_come_back_from_disk(tmp_path: Path) -> None:
    file = SnapshotFile(tmp_path / "snapshot.json")
    file.save(serve(snapshot(experiment()), Features()))
    loaded = file.load(Features())
    assert loaded is not None
    assert [read.name for read in loaded.experiments] == ["ranking"]
