from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_judgments.files import FORMS, Unreadable, json_lines, read_judgments, read_queries
from sluice_judgments.judgments import Judgments, merged

NAMES = st.text("abcXYZ019-_.:/ü", min_size=1, max_size=8)
LISTS = st.dictionaries(
    NAMES, st.dictionaries(NAMES, st.integers(0, 100), min_size=1, max_size=4), min_size=1, max_size=4
).map(Judgments)


@given(LISTS, st.sampled_from(sorted(FORMS)))
def test_what_is_written_is_read_again(judgments: Judgments, form: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "judgments"
        path.write_text("".join(FORMS[form](judgments)), encoding="utf-8")
        assert read_judgments(path).grades == judgments.grades


def test_texts_of_queries_and_more_fields_stand_in_json_lines(tmp_path: Path) -> None:
    judgments = Judgments({"q": {"a": 2}}, {"q": "why?"})
    (tmp_path / "j.jsonl").write_text("".join(json_lines(judgments, {("q", "a"): {"clicks": 7}})))
    assert read_judgments(tmp_path / "j.jsonl") == judgments
    assert json.loads((tmp_path / "j.jsonl").read_text()) == {
        "query_id": "q",
        "query": "why?",
        "document_id": "a",
        "grade": 2,
        "clicks": 7,
    }


def test_tables_without_titles_and_negative_grades_are_read(tmp_path: Path) -> None:
    (tmp_path / "plain.tsv").write_text("q\ta b\t-1\nq\tc\t2\n")
    assert read_judgments(tmp_path / "plain.tsv").grades == {"q": {"a b": 0, "c": 2}}
    (tmp_path / "qrels").write_text("1 Q0 d1 -2\r\n1\t0\td2\t1\r\n")
    assert read_judgments(tmp_path / "qrels").grades == {"1": {"d1": 0, "d2": 1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no judgment"),
        ("q 0 d\n", ":1: not a query-id, 0, document-id and grade"),
        ("query-id\tcorpus-id\tscore\nq\td\tgood\n", ":2: not a query-id, corpus-id and score"),
        ('{"query_id": "q", "document_id": "d", "grade": 1.5}\n', ':1: "grade" is to be a whole number'),
        ('{"query_id": "q", "grade": 1}\n', ':1: "document_id" is to be a text'),
        ('{"query_id": "q"\n', ":1: not a JSON object"),
    ],
)
def test_a_line_that_is_no_judgment_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(Unreadable, match="file") as raised:
        read_judgments(tmp_path / "file")
    assert said in str(raised.value)


def test_ids_that_a_form_has_no_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="blanks"):
        list(FORMS["trec"](Judgments({"q": {"a b": 1}})))
    with pytest.raises(ValueError, match="tabs"):
        list(FORMS["beir"](Judgments({"q": {"a\tb": 1}})))


def test_queries_are_read_as_beir_and_judgments_name_them(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"_id": 7, "text": "why?"}\n{"query_id": "h", "query": "how?"}\n')
    assert read_queries(tmp_path / "q.jsonl") == {"7": "why?", "h": "how?"}


def test_several_lists_become_one_by_the_rule_that_is_named() -> None:
    lists = [
        Judgments({"q": {"a": 0}}, {"q": "first text"}),
        Judgments({"q": {"a": 3, "b": 1}, "p": {"c": 2}}, {"q": "second text"}),
    ]
    assert merged(lists, "first") == Judgments({"q": {"a": 0, "b": 1}, "p": {"c": 2}}, {"q": "first text"})
    assert merged(lists, "highest").grades["q"] == {"a": 3, "b": 1}
    assert merged(lists, "mean").grades["q"] == {"a": 2, "b": 1}
