"""Types of metadata: the same rules for JSON lines and tables, in any order of the records."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sluice_cli.calls import Problem
from sluice_cli.indexing.json_records import JsonLines
from sluice_cli.indexing.records import Record, Reject, SourceDocument
from sluice_cli.indexing.sources import open_source
from sluice_cli.indexing.types import Kind, given_types


def _csv(tmp_path: Path, cells: Sequence[str], **given: Kind) -> tuple[list[Record], list[str]]:
    path = tmp_path / "table.csv"
    path.write_text("id,text,n\n" + "".join(f"{row},x,{cell}\n" for row, cell in enumerate(cells)), encoding="utf-8")
    source = open_source(str(path), types=given)
    return list(source.read()), source.said


def _json(tmp_path: Path, values: Sequence[Any], **given: Kind) -> tuple[list[Record], list[str]]:
    path = tmp_path / "lines.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(row), "text": "x", "n": value}) + "\n" for row, value in enumerate(values))
    )
    source = open_source(str(path), types=given)
    return list(source.read()), source.said


def _values(records: Sequence[Record]) -> list[Any]:
    return [record.metadata.get("n") if isinstance(record, SourceDocument) else record.reason for record in records]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-20", "0"], [1, -20, 0]),
        (["1580661436132757506", "1580661436132757507"], [1580661436132757506, 1580661436132757507]),
        (["9.90", "12.50", "0.00"], [9.9, 12.5, 0.0]),
        (["8.5", "8", "1e+22"], [8.5, 8.0, 1e22]),
        (["True", "FALSE", ""], [True, False, None]),
    ],
)
def test_a_column_is_typed_where_nothing_is_lost(tmp_path: Path, cells: list[str], values: list[Any]) -> None:
    found, said = _csv(tmp_path, cells)
    assert [repr(value) for value in _values(found)] == [repr(value) for value in values]
    assert said == []


@pytest.mark.parametrize(
    ("cells", "culprit"),
    [
        (["3.8", "3.9", "3.10"], "3.10"),
        (["1.20", "1.2", "1.9"], "1.20"),
        (["12E3", "13E3"], "12E3"),
        (["9.90", "10"], "9.90"),
        (["+5", "6"], "+5"),
        (["-0", "1"], "-0"),
        (["1", "2", "n/a"], "n/a"),
        (["true", "1"], "true"),
        (["99999999999999999999", "1"], "99999999999999999999"),
        (["0.12345678901234567890", "0.12345678901234567891"], "0.12345678901234567890"),
        (["9007199254740993", "0.5"], "decimals"),
    ],
)
def test_a_column_of_numbers_that_would_lose_something_is_text_and_that_is_said(
    tmp_path: Path, cells: list[str], culprit: str
) -> None:
    for order in itertools.islice(itertools.permutations(cells), 6):
        found, said = _csv(tmp_path, order)
        assert _values(found) == list(order)
        assert len(said) == 1
        assert "column 'n' is text" in said[0]
        assert "--type n=" in said[0]
    assert culprit in _csv(tmp_path, cells)[1][0]


@pytest.mark.parametrize("cells", [["abc", "d"], ["007", "x", "y"], ["Saw", "300", "Up"], ["٣", "x"]])
def test_a_column_of_text_is_not_talked_about(tmp_path: Path, cells: list[str]) -> None:
    found, said = _csv(tmp_path, cells)
    assert (_values(found), said) == (cells, [])


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([10, 9.9, 12], [10.0, 9.9, 12.0]),
        ([9.9, 10], [9.9, 10.0]),
        ([1, "n/a", 2.5], ["1", "n/a", "2.5"]),
        ([True, 1], ["true", "1"]),
        ([["a"], "b", 3], [["a"], "b", "3"]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),
        (["9.90", "3"], ["9.90", "3"]),
        ([1, None, 2], [1, None, 2]),
    ],
)
def test_values_of_json_follow_the_same_rules_in_every_order(
    tmp_path: Path, values: list[Any], stored: list[Any]
) -> None:
    expected = dict(zip(map(repr, values), map(repr, stored), strict=True))
    for order in itertools.permutations(values):
        found, _ = _json(tmp_path, order)
        assert [repr(value) for value in _values(found)] == [expected[repr(value)] for value in order]


def test_a_mixture_in_json_is_said(tmp_path: Path) -> None:
    _, said = _json(tmp_path, [1, 2, "n/a"])
    (note,) = said
    assert note.startswith("field 'n' is text, as its values are not of one type ('n/a' in line 3); --type n=float")


@pytest.mark.parametrize("read", [_csv, _json])
def test_a_type_that_is_said_decides(tmp_path: Path, read: Any) -> None:
    found, said = read(tmp_path, ["3.10", "12E3", "n/a", "1e999", ""], n=Kind.DECIMAL)
    assert _values(found)[:2] == [3.1, 12000.0]
    assert said == []
    for rejected in found[2:4]:
        assert isinstance(rejected, Reject)
        assert "'n'" in rejected.reason
    found, _ = read(tmp_path, ["007", "+5", "1.5"], n=Kind.WHOLE)
    assert _values(found)[:2] == [7, 5]
    assert isinstance(found[2], Reject)
    found, _ = read(tmp_path, ["1", "2"], n=Kind.TEXT)
    assert _values(found) == ["1", "2"]


def test_a_whole_number_becomes_text_where_that_is_said(tmp_path: Path) -> None:
    assert _values(_json(tmp_path, [1, 2**70, 2.5, True], n=Kind.TEXT)[0]) == ["1", str(2**70), "2.5", "true"]


@pytest.mark.parametrize("option", ["price", "price=money", "=float", "price=FLOAT"])
def test_a_type_that_is_none_is_told_with_those_that_there_are(option: str) -> None:
    with pytest.raises(Problem, match="NAME=TYPE") as caught:
        given_types([option])
    assert "text, integer, float, bool" in caught.value.remedy


def test_types_are_said_for_fields_by_the_name_of_their_column() -> None:
    assert given_types(["Release year=text", "price=float"]) == {"Release_year": Kind.TEXT, "price": Kind.DECIMAL}


def test_keys_next_to_the_known_ones_are_metadata(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [
        {"id": "a", "text": "x", "group": "g", "year": 2020, "metadata": {"kind": "k"}, "Country of origin": "US"},
        {"id": "b", "_id": "mongo", "text": "x", "year": None, "tags": ["t"]},
        {"_id": "c", "text": "x", "year": 2021.5},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = [record.metadata for record in open_source(str(path)).read() if isinstance(record, SourceDocument)]
    assert found == [
        {"kind": "k", "group": "g", "year": 2020.0, "Country_of_origin": "US"},
        {"_id": "mongo", "tags": ["t"]},
        {"year": 2021.5},
    ]


def test_keys_that_metadata_cannot_hold_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(
        "\n".join(json.dumps({"id": str(n), "text": "x", "author": {"name": "n"}, "sizes": [1, 2]}) for n in range(3))
    )
    source = open_source(str(path))
    assert [record.metadata for record in source.read() if isinstance(record, SourceDocument)] == [{}, {}, {}]
    assert [note.split(" is left out")[0] for note in source.said] == ["'author' of 3 records", "'sizes' of 3 records"]


def test_a_key_that_metadata_has_too_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"id": "a", "text": "x", "year": 1, "metadata": {"year": 2}}')
    (reject,) = open_source(str(path)).read()
    assert isinstance(reject, Reject)
    assert reject.reason == "has 'year' twice"


def test_of_a_stream_the_first_records_decide_and_decimals_widen_what_was_whole() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    values = [*range(1000), 9.5, "n/a", 7]
    raw = "\n".join(json.dumps({"id": str(n), "text": "x", "n": value}) for n, value in enumerate(values)).encode()
    found = list(JsonLines("a pipe", Pipe(raw), None, None).read())
    assert _values(found)[999:1001] == [999, 9.5]
    assert "is not a whole number in field 'n'" in _values(found)[1001]
    assert "--type n=text" in _values(found)[1001]
    assert _values(found)[1002] == 7
