from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sluice_cli.experiment.planning import outcome_of
from sluice_cli.feedback import files
from sluice_cli.feedback.files import EVENTS, QUERIES, Bulk, Export, JsonLines, Parquet
from sluice_cli.feedback.ubi import events_of, query_of
from sluice_client import (
    AnswerFeedback,
    Event,
    EventAction,
    Exposure,
    Impression,
    ImpressionEnding,
    ServedImpression,
)

TIME = datetime(2026, 11, 28, 12, 30, 0, 250_000, tzinfo=UTC)


def answer(number: int = 0) -> AnswerFeedback:
    query_id = f"r{number}"
    return AnswerFeedback(
        served=ServedImpression(
            impression=Impression(
                query_id=query_id,
                time=TIME,
                collection="papers",
                unit=0xF00D,
                object_ids=("a#1", "b", "c"),
                first_position=11,
                exposures=(
                    Exposure("closer-look", "closer-look.1", "", (1, 2, 0)),
                    Exposure("ramp", "ramp.2", "treatment"),
                ),
            ),
            ending=ImpressionEnding.ANSWERED,
            duration=timedelta(milliseconds=84),
            query="hmac:5e1f",
            model_token_count=412,
        ),
        events=(
            Event(query_id, EventAction.CLICK, b"", "b", 12, time=TIME, client_id="c1", session_id="s1", event_id="e1"),
            Event(query_id, EventAction.RATE, rating=0.75, aspect="relevance", event_id="e2"),
            Event(query_id, EventAction.LABEL, b"", "c", 13, label="outdated", event_id="e3"),
        ),
    )


def test_an_answer_is_a_document_of_ubi_queries() -> None:
    assert query_of(answer()) == {
        "application": "sluice",
        "query_id": "r0",
        "client_id": "000000000000f00d",
        "user_query": "hmac:5e1f",
        "query_response_id": "r0",
        "query_response_object_ids": ["a#1", "b", "c"],
        "object_id_field": "passage_id",
        "query_attributes": {
            "collection": "papers",
            "first_position": 11,
            "ending": "answered",
            "seconds": 0.084,
            "model_tokens": 412,
            "experiments": [
                {"experiment": "closer-look", "run_id": "closer-look.1", "teams": [1, 2, 0]},
                {"experiment": "ramp", "run_id": "ramp.2", "arm": "treatment"},
            ],
        },
        "timestamp": "2026-11-28T12:30:00.250Z",
    }


def test_events_are_documents_of_ubi_events() -> None:
    clicked, rated, labelled = events_of(answer())
    assert clicked == {
        "application": "sluice",
        "action_name": "click",
        "query_id": "r0",
        "session_id": "s1",
        "client_id": "c1",
        "user_id": "000000000000f00d",
        "timestamp": "2026-11-28T12:30:00.250Z",
        "event_attributes": {
            "object": {"object_id": "b", "object_id_field": "passage_id"},
            "position": {"ordinal": 12},
            "event_id": "e1",
        },
    }
    # What is about the whole answer has no object; the format asks for a position all the same.
    assert rated["event_attributes"] == {
        "position": {"ordinal": 0},
        "event_id": "e2",
        "rating": 0.75,
        "aspect": "relevance",
    }
    assert rated["client_id"] == "000000000000f00d"
    assert labelled["event_attributes"]["label"] == "outdated"


def test_results_that_were_shown_may_be_events_too() -> None:
    shown = [event for event in events_of(answer(), impressions=True) if event["action_name"] == "impression"]
    places = [
        (event["event_attributes"]["object"]["object_id"], event["event_attributes"]["position"]) for event in shown
    ]
    assert places == [("a#1", {"ordinal": 11}), ("b", {"ordinal": 12}), ("c", {"ordinal": 13})]
    assert len({event["event_attributes"]["event_id"] for event in shown}) == 3


def documents(count: int) -> dict[str, list[dict[str, Any]]]:
    answers = [answer(number) for number in range(count)]
    return {QUERIES: list(map(query_of, answers)), EVENTS: [event for one in answers for event in events_of(one)]}


def written(out: Export, count: int) -> None:
    with out:
        for index, rows in documents(count).items():
            for place, row in enumerate(rows):
                out.add(index, str(place), row)


def test_json_lines_hold_what_was_written(tmp_path: Path) -> None:
    written(JsonLines(tmp_path / "ubi"), 3)
    assert {path.name for path in (tmp_path / "ubi").iterdir()} == {"ubi_queries.jsonl", "ubi_events.jsonl"}
    for index, rows in documents(3).items():
        lines = (tmp_path / "ubi" / f"{index}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows


def test_parquet_holds_what_was_written_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(files, "ROWS_IN_A_GROUP", 4)
    written(Parquet(tmp_path), 5)
    for index, rows in documents(5).items():
        file = parquet.ParquetFile(tmp_path / f"{index}.parquet")
        assert file.num_row_groups == -(-len(rows) // 4)
        read = file.read().to_pylist()
        assert [without_nulls(row) for row in read] == [
            {**row, "timestamp": datetime.fromisoformat(row["timestamp"])} for row in rows
        ]


def without_nulls(value: Any) -> Any:
    """A row of Parquet without the fields that its document left out."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def test_bulk_format_names_index_and_id_before_each_document() -> None:
    stream = io.StringIO()
    written(Bulk(stream), 2)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"index": {"_index": "ubi_queries", "_id": "0"}}
    assert [line for line in lines[1::2] if "action_name" not in line] == documents(2)[QUERIES]


@pytest.mark.parametrize("kind", [JsonLines, Parquet])
def test_an_export_that_fails_leaves_no_half_file(tmp_path: Path, kind: type[Export]) -> None:
    (tmp_path / "ubi_queries.jsonl").write_text("earlier")
    with pytest.raises(RuntimeError), kind(tmp_path) as out:  # type: ignore[call-arg]
        out.add(QUERIES, "r0", query_of(answer()))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["ubi_queries.jsonl"]
    assert (tmp_path / "ubi_queries.jsonl").read_text() == "earlier"


def test_a_recorded_answer_has_the_values_of_an_experiment() -> None:
    outcome = outcome_of(answer())
    assert (outcome.clicked, outcome.cited, outcome.best_position, outcome.rating) == (True, False, 12, 0.75)
    assert (outcome.seconds, outcome.tokens) == (0.084, 412)
