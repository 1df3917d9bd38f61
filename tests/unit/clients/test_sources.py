from __future__ import annotations

import codecs
import io
import json
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli import sources
from sluice_cli.calls import Problem
from sluice_cli.sources import JsonLines, Record, Reject, SourceDocument, open_source


def _read(path: Path) -> list[Record]:
    return list(open_source(str(path)).read())


def _lines(tmp_path: Path, *lines: str | bytes) -> list[Record]:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return _read(path)


def _reason(tmp_path: Path, line: str | bytes) -> str:
    (reject,) = _lines(tmp_path, line)
    assert isinstance(reject, Reject)
    assert reject.line == 1
    return reject.reason


# JSON lines


def test_a_line_is_a_document(tmp_path: Path) -> None:
    line = '{"id": "a", "title": "A", "text": "text", "metadata": {"year": 2020, "tags": ["x"], "gone": null}}'
    assert _lines(tmp_path, line, "") == [
        SourceDocument("a", "A", "text", {"year": 2020, "tags": ["x"]}, line=1, position=len(line) + 1)
    ]


def test_beirs_ids_and_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    records = _lines(tmp_path, '{"_id": "4983", "text": "x"}', '{"id": 5836, "text": "x", "title": null}')
    assert [record.id for record in records] == ["4983", "5836"]


def test_the_line_and_position_of_a_document_are_those_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('\n{"id": "a", "text": "x"}\r\n\n{"id": "b", "text": "é"}')
    first, second = _read(path)
    assert isinstance(second, SourceDocument)
    assert (first.line, second.line) == (2, 4)
    assert second.position == path.stat().st_size == open_source(str(path)).size


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON: Expecting"),
        ("nonsense", "is not JSON"),
        ('{"id": ' + "[" * 100_000, "is not JSON: maximum recursion depth"),
        ('"text"', "is not a JSON object"),
        ('{"text": "x"}', 'has no "id"'),
        ('{"id": "", "text": "x"}', 'has no "id"'),
        ('{"id": true, "text": "x"}', 'has no "id"'),
        ('{"id": "a"}', "has neither title nor text"),
        ('{"id": "a", "title": " ", "text": "\\n"}', "has neither title nor text"),
        ('{"id": "a", "text": 1}', 'has a "text" that is no string'),
        ('{"id": "a", "text": "x", "metadata": [1]}', 'has a "metadata" that is no object'),
        (b'{"id": "a", "text": "\xe9"}', "is not UTF-8 (at byte 21)"),
    ],
)
def test_a_line_that_is_no_document_is_rejected_with_its_reason(tmp_path: Path, line: str | bytes, reason: str) -> None:
    assert reason in _reason(tmp_path, line)


def test_a_bad_line_does_not_spoil_its_neighbours(tmp_path: Path) -> None:
    good = '{"id": "a", "text": "x"}'
    records = _lines(tmp_path, good, b"\xff", good)
    assert [type(record) for record in records] == [SourceDocument, Reject, SourceDocument]
    assert [record.line for record in records] == [1, 2, 3]


def test_a_line_that_is_too_long_is_rejected_without_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_RECORD_BYTES", 1000)
    good = '{"id": "a", "text": "x"}'
    exact = json.dumps({"id": "b", "text": "x" * (999 - len('{"id": "b", "text": ""}'))})
    records = _lines(tmp_path, good, "x" * 5000, exact, good)
    assert [type(record) for record in records] == [SourceDocument, Reject, SourceDocument, SourceDocument]
    assert isinstance(records[1], Reject)
    assert "is longer than" in records[1].reason
    last = records[-1]
    assert isinstance(last, SourceDocument)
    assert last.position == (tmp_path / "corpus.jsonl").stat().st_size


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    (record,) = _lines(tmp_path, codecs.BOM_UTF8 + b'{"id": "a", "text": "x"}')
    assert record.id == "a"


@pytest.mark.parametrize(
    ("content", "message", "remedy"),
    [
        ('{"id": "a"}'.encode("utf-16"), "is in UTF-16", "iconv -f UTF-16"),
        ('{"id": "a"}'.encode("utf-32"), "is in UTF-32", "iconv -f UTF-32"),
        (b"\x1f\x8b\x08\x00", "is compressed", "zcat"),
        (b"\x7fELF\x00\x00", "is no text", "JSON objects"),
        (b'[{"id": "a", "text": "x"}]', "one JSON array", "jq -c"),
    ],
)
def test_a_file_of_another_kind_is_told_of_once_with_a_remedy(
    tmp_path: Path, content: bytes, message: str, remedy: str
) -> None:
    with pytest.raises(Problem, match=message) as caught:
        _lines(tmp_path, content)
    assert remedy in caught.value.remedy


def test_a_file_that_is_not_there_is_a_problem_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"gone\.jsonl cannot be read: No such file"):
        open_source(str(tmp_path / "gone.jsonl"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as stream:
        for number in range(20_000):
            stream.write(json.dumps({"id": str(number), "text": "x" * 1000}) + "\n")
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_source(str(path)).read()) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_RECORDS = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "_id", "title", "text", "metadata", "other"), _JSON))


@given(content=st.lists(st.binary(max_size=40) | _RECORDS.map(lambda record: json.dumps(record).encode())))
def test_whatever_the_lines_hold_each_is_a_document_a_reject_or_empty(content: list[bytes]) -> None:
    raw = b"\n".join(content)

    try:
        records = list(JsonLines("lines", io.BytesIO(raw), None).read())
    except Problem:
        return
    numbers = [record.line for record in records]
    lines = raw.removeprefix(codecs.BOM_UTF8).split(b"\n")
    assert numbers == [number for number, line in enumerate(lines, start=1) if line.strip()]


# Folders


def test_the_texts_below_a_folder_are_documents(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / ".git").mkdir()
    for name, content in {
        "guide/rollback.md": "intro\n\n# Rolling back\n\nHow to.",
        "guide/page.html": "<title>Page</title><p>Text</p>",
        "notes.txt": "Some notes.",
        "picture.png": "not a text",
        ".hidden.txt": "hidden",
        ".git/readme.txt": "hidden",
    }.items():
        (tmp_path / name).write_text(content)
    source = open_source(str(tmp_path))
    assert (source.size, source.passed_over) == (3, 1)
    assert list(source.read()) == [
        SourceDocument("notes.txt", "notes.txt", "Some notes.", position=1),
        SourceDocument("guide/page.html", "Page", "Text", position=2),
        SourceDocument("guide/rollback.md", "Rolling back", "intro\n\n# Rolling back\n\nHow to.", position=3),
    ]


def test_files_that_cannot_be_documents_are_rejected_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_RECORD_BYTES", 1000)
    (tmp_path / "empty.md").touch()
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "long.txt").write_text("x" * 1001)
    (tmp_path / "mark.txt").write_bytes(codecs.BOM_UTF8 + b"fine")
    reasons = {record.id: record.reason for record in _read(tmp_path) if isinstance(record, Reject)}
    assert reasons.keys() == {"empty.md", "latin.txt", "long.txt"}
    assert "holds no text" in reasons["empty.md"]
    assert "is not UTF-8" in reasons["latin.txt"]
    assert "is longer than" in reasons["long.txt"]


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [record.id for record in _read(tmp_path)] == ["notes.txt"]


@contextmanager
def _nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_files_and_folders_that_may_not_be_read_are_rejected() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which only its owner may enter
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret.txt").write_text("secret")
        (folder / "secret.txt").chmod(0)
        (folder / "closed").mkdir(mode=0)
        with _nobody():
            rejects = {record.id: record.reason for record in _read(folder) if isinstance(record, Reject)}
            with pytest.raises(Problem, match="Permission denied"):
                open_source(str(folder / "closed"))
        (folder / "closed").chmod(0o700)
    assert rejects == {
        "secret.txt": "cannot be read: Permission denied",
        "closed": "this folder cannot be read: Permission denied",
    }


def test_a_folder_without_texts_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text("{}")
    with pytest.raises(Problem, match=r"\.md") as caught:
        open_source(str(tmp_path))
    assert "corpus.jsonl" in caught.value.remedy


def test_a_single_text_file_is_pointed_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("notes")
    with pytest.raises(Problem, match="single text file"):
        open_source(str(tmp_path / "notes.md"))
