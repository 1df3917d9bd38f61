"""The client's types against the messages that they mirror."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import pytest

import sluice_client
from sluice.gateway.v1 import collections_pb2, search_pb2
from sluice.rollout.v1 import rollout_pb2
from sluice.type.v1 import features_pb2
from sluice_client import (
    FLAGS,
    Condition,
    Document,
    Features,
    FeatureState,
    HistoryEntry,
    Plan,
    PlanStep,
    SluiceError,
    StageReport,
    features,
    flag_values,
)
from sluice_client.messages import Received, Sent

# Fields that the client uses itself, and its types leave out.
NOT_SHOWN = {
    "sluice.gateway.v1.GetDocumentsResponse.remaining_ids",
    "sluice.gateway.v1.ReindexCollectionResponse.next_cursor",
    "sluice.rollout.v1.ListFeaturesResponse.next_page_token",
}
# Fields that the client sends beside the message.
ADDED = {"sluice.type.v1.Event.impression_token"}
# Conditions are written by comparisons.
WRITTEN_BY_HAND = {Condition}


def _types() -> list[type[Received]]:
    found = [value for value in vars(sluice_client).values() if inspect.isclass(value)]
    return [value for value in found if issubclass(value, Received)]


@pytest.mark.parametrize("mirror", _types(), ids=lambda mirror: mirror.__name__)
def test_every_field_of_a_message_is_shown_or_named_as_not_shown(mirror: type[Received]) -> None:
    if mirror in WRITTEN_BY_HAND:
        return
    descriptor = mirror.PROTO.DESCRIPTOR
    shown = {field.name for field in dataclasses.fields(mirror)}  # type: ignore[arg-type]  # all of them are dataclasses
    sent = {field.name for field in descriptor.fields}
    assert {f"{descriptor.full_name}.{name}" for name in shown - sent} <= ADDED
    missing = {f"{descriptor.full_name}.{name}" for name in sent - shown}
    assert missing <= NOT_SHOWN


def test_a_restored_snapshot_has_the_fields_of_a_rollback() -> None:
    rollback, restored = collections_pb2.RollbackCollectionResponse, collections_pb2.RestoreSnapshotResponse
    names = [[field.name for field in message.DESCRIPTOR.fields] for message in (rollback, restored)]
    assert names[0] == names[1]


def _enums() -> Iterator[tuple[type[enum.StrEnum], Any]]:
    """Enums of the client with the enums of the protos that their fields have."""
    for mirror in _types():
        hints = get_type_hints(mirror)
        for field in mirror.PROTO.DESCRIPTOR.fields:
            hint = hints.get(field.name)
            for kind in (hint, *getattr(hint, "__args__", ())):
                if inspect.isclass(kind) and issubclass(kind, enum.StrEnum) and field.enum_type:
                    yield kind, field.enum_type


def test_every_value_of_an_enum_is_known() -> None:
    found = list(_enums())
    assert found
    for ours, theirs in found:
        unset, *values = [value.name for value in theirs.values]
        names = {name.removeprefix(unset.removesuffix("UNSPECIFIED")) for name in values}
        assert {member.name for member in ours} - {"UNKNOWN"} == names
        assert {member.value for member in ours} == {member.name.lower() for member in ours}


def test_times_durations_and_unset_fields_have_plain_types() -> None:
    entry = HistoryEntry.from_proto(rollout_pb2.HistoryEntry(time=datetime(2026, 1, 2, tzinfo=UTC), state=99))  # type: ignore[arg-type]
    assert (entry.time, entry.done_time) == (datetime(2026, 1, 2, tzinfo=UTC), None)
    assert entry.state is FeatureState.UNKNOWN
    report = StageReport.from_proto(search_pb2.StageReport(duration=timedelta(milliseconds=1.5)))
    assert report.duration == timedelta(milliseconds=1.5)


def test_a_message_comes_back_as_it_was_written() -> None:
    plan = Plan("p", (PlanStep(1, timedelta(seconds=1), automatic=True),), holdout_ppm=5)
    assert Plan.from_proto(plan.to_proto()) == plan
    document = Document("d", metadata={"year": 2020, "share": 0.5, "draft": False, "tags": ["a"], "kind": "x"})
    assert Document.from_proto(document.to_proto()) == document


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Plan("p", [PlanStep(2**31, timedelta())]), "plan.steps[0].treatment_ppm"),
        (Plan("p", [PlanStep(1, timedelta.max)]), "plan.steps[0].dwell"),
        (Plan("\ud800", []), "plan.name"),
    ],
)
def test_a_value_that_cannot_travel_is_named_by_its_path(value: Sent, path: str) -> None:
    with pytest.raises(SluiceError) as caught:
        value.to_proto("plan")
    assert caught.value.field == path


# Flags


def test_the_table_of_flags_is_that_of_the_proto() -> None:
    assert list(FLAGS) == [field.name for field in Features.DESCRIPTOR.fields]
    strategy, count = FLAGS["expansion_strategy"], FLAGS["rerank_candidate_count"]
    assert (strategy.kind, strategy.choices, strategy.refines) == (str, ("synonyms", "multi_query"), "expansion")
    assert (count.kind, count.least, count.most, count.stage) == (int, 1, 1000, "rerank")
    assert FLAGS["dense"].unless == "lexical"
    assert all(flag.help for flag in FLAGS.values())


def test_features_are_made_of_plain_values_and_listed_as_such() -> None:
    given = {"dense": False, "expansion_strategy": "multi_query", "max_variant_count": 3}
    made = features(**given, rerank=None)
    assert made == Features(
        dense=False, expansion_strategy=features_pb2.EXPANSION_STRATEGY_MULTI_QUERY, max_variant_count=3
    )
    assert flag_values(made) == given


@pytest.mark.parametrize(
    ("given", "error", "problem"),
    [
        ({"enrich": True}, TypeError, "no flag; there are dense, lexical"),
        ({"rerank": 1}, ValueError, "of type bool"),
        ({"max_variant_count": 17}, ValueError, "between 1 and 16, not 17"),
        ({"expansion_strategy": "guess"}, ValueError, "one of synonyms, multi_query"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_there_is(given: dict[str, Any], error: type, problem: str) -> None:
    with pytest.raises(error, match=problem):
        features(**given)
