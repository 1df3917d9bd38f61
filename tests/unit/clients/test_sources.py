from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.calls import Problem
from sluice_cli.indexing import files, json_records, office, records
from sluice_cli.indexing.json_records import JsonLines
from sluice_cli.indexing.records import BEGINNING, Record, Reject, SourceDocument
from sluice_cli.indexing.sources import open_source
from sluice_cli.indexing.tables import Columns, Table


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
    found = _lines(tmp_path, '{"_id": "4983", "text": "x"}', '{"id": 5836, "text": "x", "title": null}')
    assert [record.id for record in found] == ["4983", "5836"]


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
    found = _lines(tmp_path, good, b"\xff", good)
    assert [type(record) for record in found] == [SourceDocument, Reject, SourceDocument]
    assert [record.line for record in found] == [1, 2, 3]


def test_a_line_that_is_too_long_is_rejected_without_being_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1000)
    good = '{"id": "a", "text": "x"}'
    exact = json.dumps({"id": "b", "text": "x" * (999 - len('{"id": "b", "text": ""}'))})
    found = _lines(tmp_path, good, "x" * 5000, exact, good)
    assert [type(record) for record in found] == [SourceDocument, Reject, SourceDocument, SourceDocument]
    assert isinstance(found[1], Reject)
    assert "is longer than" in found[1].reason
    last = found[-1]
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
        found = list(JsonLines("lines", io.BytesIO(raw), None, None).read())
    except Problem:
        return
    numbers = [record.line for record in found]
    lines = raw.removeprefix(codecs.BOM_UTF8).split(b"\n")
    assert numbers == [number for number, line in enumerate(lines, start=1) if line.strip()]


# Tables


def _table(tmp_path: Path, content: str | bytes, name: str = "films.csv", columns: Columns = Columns()) -> list[Record]:  # noqa: B008  # frozen
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(open_source(str(tmp_path / name), None, columns).read())


def test_a_row_is_a_document_and_its_other_columns_are_typed_metadata(tmp_path: Path) -> None:
    content = (
        ",id,title,text,year,rating,seen,zip,Country of Origin\r\n"
        '0,a,Alien,"In space, no one\ncan hear ""you"".",1979,8.5,TRUE,02139,US\r\n'
        "1,b,Brazil,Paperwork.,1985,8,false,,\r\n"
    )
    first = '0,a,Alien,"In space, no one\ncan hear ""you"".",1979,8.5,TRUE,02139,US\r\n'
    assert _table(tmp_path, codecs.BOM_UTF8 + content.encode()) == [
        SourceDocument(
            "a",
            "Alien",
            'In space, no one\ncan hear "you".',
            {"year": 1979, "rating": 8.5, "seen": True, "zip": "02139", "Country_of_Origin": "US"},
            line=2,
            position=len(codecs.BOM_UTF8) + content.index(first) + len(first),
        ),
        SourceDocument(
            "b",
            "Brazil",
            "Paperwork.",
            {"year": 1985, "rating": 8.0, "seen": False},
            line=4,
            position=len(codecs.BOM_UTF8) + len(content),
        ),
    ]


def test_columns_can_be_named(tmp_path: Path) -> None:
    (found,) = _table(tmp_path, "imdb;plot\n7;Long ago.\n", columns=Columns(id="imdb", text="plot"))
    assert found == SourceDocument("7", "", "Long ago.", {}, line=2, position=22)


def test_in_tab_separated_values_quotes_are_letters(tmp_path: Path) -> None:
    found = _table(tmp_path, 'id\ttext\na\t"so\nb\tfine"\n', "films.tsv")
    assert [(record.id, record.text) for record in found if isinstance(record, SourceDocument)] == [
        ("a", '"so'),
        ("b", 'fine"'),
    ]


class _Pipe(io.BytesIO):
    """A stream that can be read only once."""

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("b,x", "has 2 cells, and the header has 3"),
        (",x,1", "has no id"),
        ("b, ,1", "has neither title nor text"),
        ("b,x,soon", "is not a whole number in column 'year'"),
        (b"b,\xff,1", "is not UTF-8"),
        ('b,"x"y,1', "is no row of a table"),
        ('b,"x,1', "is no row of a table"),
    ],
)
def test_a_row_that_is_no_document_is_rejected_with_its_line(row: str | bytes, reason: str) -> None:
    # Of a stream, types are told by the first rows, so what differs comes after them.
    good = "".join(f"a{number},x,1979\n" for number in range(1000))
    raw = row if isinstance(row, bytes) else row.encode()
    pipe = _Pipe(b"id,text,year\n" + good.encode() + raw)
    found = list(Table("a pipe", pipe, None, None, delimiter=None, columns=Columns()).read())
    assert len(found) == 1001
    assert isinstance(found[-1], Reject)
    assert reason in found[-1].reason
    assert found[-1].line == 1002


@pytest.mark.parametrize(
    ("content", "problem", "remedy"),
    [
        ("", "is empty", "first row"),
        ("name,text\na,b\n", "has no column 'id'", "--id-column; the columns are: 'name', 'text'"),
        ("id,plot\na,b\n", "has no column 'text'", "--text-column"),
        ("id,text,a b,a_b\n", "two columns 'a_b'", "rename"),
    ],
)
def test_a_table_without_what_is_needed_says_what_there_is(
    tmp_path: Path, content: str, problem: str, remedy: str
) -> None:
    with pytest.raises(Problem, match=problem) as caught:
        _table(tmp_path, content)
    assert remedy in caught.value.remedy


def test_json_lines_have_no_columns(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").touch()
    with pytest.raises(Problem, match="no columns"):
        open_source(str(tmp_path / "corpus.jsonl"), None, Columns(id="x"))


def test_a_quote_without_end_is_told_with_the_lines_that_it_takes(tmp_path: Path) -> None:
    rows = "".join(f"{n},nail number {n}\n" for n in range(2, 900))
    *stored, reject = _table(tmp_path, f'id,text\n1,"ok"\n6b,"5 inch pipe, bent\n{rows}')
    assert [record.id for record in stored] == ["1"]
    assert isinstance(reject, Reject)
    assert (reject.line, reject.lost) == (3, 898)
    assert "898 lines" in reject.reason


def test_rows_inside_a_quoted_cell_are_told(tmp_path: Path) -> None:
    path = tmp_path / "inch.csv"
    path.write_text(
        'id,text\n1,ok pipe\n2,"5 inch pipe\n3,nail of steel\n4,screw of brass\n5,board of 2"\n6,ok hinge\n'
    )
    source = open_source(str(path))
    assert [record.id for record in source.read()] == ["1", "2", "6"]
    (said,) = source.said
    assert "in line 3 holds 3 lines that look like rows, the first in line 4" in said
    assert source.suspect


def test_lines_of_prose_inside_a_quoted_cell_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "films.csv"
    path.write_text('id,title,text\n1,Alien,"In space,\nno one, at all, can hear you,\nsays the poster"\n')
    source = open_source(str(path))
    assert len(list(source.read())) == 1
    assert (source.said, source.suspect) == ([], False)


# Reading on


@pytest.mark.parametrize("name", ["corpus.jsonl", "films.csv", "docs"])
def test_reading_can_go_on_after_any_record(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "docs":
        path.mkdir()
        for letter in "cab":
            (path / f"{letter}.txt").write_text(letter)
        (path / "b.md").touch()
    elif name == "films.csv":
        path.write_text('id,text,year\n\na,"x\ny",1979\nb,x\nc,"z",1\nd,w,2\n')
    else:
        path.write_text('\n{"id": "a", "text": "é"}\nnonsense\n\n{"id": "b", "text": "x"}\n{"id": "c", "text": "y"}')
    everything = _read(path)
    assert len(everything) == 4
    for number, mark in enumerate([BEGINNING, *(record.mark for record in everything)]):
        assert list(open_source(str(path)).read(mark)) == everything[number:]


def test_a_source_that_was_changed_is_in_another_state(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    (tmp_path / "corpus.jsonl").write_text("{}")

    def states() -> list[str | None]:
        return [open_source(str(tmp_path / name)).state for name in ("docs", "corpus.jsonl")]

    before = states()
    assert before == states()
    (tmp_path / "docs" / "b.txt").write_text("b")
    (tmp_path / "corpus.jsonl").write_text("{ }")
    assert all(now != then for now, then in zip(states(), before, strict=True))
    assert open_source("-").state is None


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
    assert (source.size, source.passed_over) == (3, {".png": 1})
    assert list(source.read()) == [
        SourceDocument("notes.txt", "notes.txt", "Some notes.", position=1),
        SourceDocument("guide/page.html", "Page", "Text", position=2),
        SourceDocument("guide/rollback.md", "Rolling back", "intro\n\n# Rolling back\n\nHow to.", position=3),
    ]


def test_files_that_cannot_be_documents_are_rejected_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(files, "MAX_RECORD_BYTES", 1000)
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
    (tmp_path / "lines.jsonl").write_text("{}")
    with pytest.raises(Problem, match=r"\.md") as caught:
        open_source(str(tmp_path))
    assert "FILE.jsonl" in caught.value.remedy


def test_of_a_folder_in_beirs_layout_the_corpus_is_read(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "4983", "title": "A", "text": "x", "metadata": {}}')
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "why?"}')
    (tmp_path / "README.md").write_text("about")
    assert [record.id for record in _read(tmp_path)] == ["4983"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("notes.md", b"# Notes\n\nText.", ("notes.md", "Notes", "# Notes\n\nText.")),
        ("page.html", b"<h1>Page</h1>Text", ("page.html", "Page", "Page\nText")),
        ("plain.txt", b"Some notes.", ("plain.txt", "plain.txt", "Some notes.")),
    ],
)
def test_a_single_text_file_is_a_document(
    tmp_path: Path, name: str, content: bytes, expected: tuple[str, str, str]
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "other.md").write_text("other")
    (found,) = _read(tmp_path / name)
    assert isinstance(found, SourceDocument)
    assert (found.id, found.title, found.text) == expected


def test_utf16_without_a_mark_and_binaries_are_told_and_not_stored_as_text(tmp_path: Path) -> None:
    for name, content in {
        "little.txt": "The lighthouse keeper.\n".encode("utf-16-le"),
        "big.md": "# The lighthouse\n".encode("utf-16-be"),
        "cyrillic.txt": "Смотритель\nмаяка\n".encode("utf-16-le"),  # noqa: RUF001  # Russian
        "marked.txt": "The lighthouse".encode("utf-16"),
        "binary.txt": b"\x00\x01\x02LOGO\x00\x00\x10\x7f\x00tower" * 20,
        "controls.txt": b"ab\x01\x02\x03cd" * 20,
        "plain.txt": "Tabs\tand \x1b[1mcolours\x1b[0m, naïve 東京\f\n".encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
    found = _read(tmp_path)
    assert [record.id for record in found if isinstance(record, SourceDocument)] == ["plain.txt"]
    reasons = {record.id: record.reason for record in found if isinstance(record, Reject)}
    assert "UTF-16LE" in reasons["little.txt"]
    assert "UTF-16BE" in reasons["big.md"]
    assert "UTF-16" in reasons["marked.txt"]
    assert "is no text" in reasons["binary.txt"]
    assert "is no text" in reasons["controls.txt"]
    assert reasons["cyrillic.txt"]


def test_a_link_out_of_the_folder_is_not_followed_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.txt").write_text("key")
    (folder / "notes.txt").write_text("notes")
    (folder / "again.txt").symlink_to(folder / "notes.txt")
    (folder / "x.txt").symlink_to("/proc/self/environ")
    (folder / "sub" / "up.txt").symlink_to("../../secret/key.txt")
    (folder / "more").symlink_to(tmp_path / "secret")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    source = open_source(str(folder))
    assert [record.id for record in source.read()] == ["again.txt", "notes.txt"]
    (said,) = source.said
    assert "4 links that lead out" in said


def test_pdf_and_word_files_are_read_where_their_libraries_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docx, pypdf = pytest.importorskip("docx"), pytest.importorskip("pypdf")
    document = docx.Document()
    document.add_heading("Opening hours", 0)
    document.add_paragraph("From nine to five.")
    document.add_table(1, 2).cell(0, 0).text = "Monday"
    document.save(str(tmp_path / "hours.docx"))
    empty = pypdf.PdfWriter()
    empty.add_blank_page(72, 72)
    empty.write(tmp_path / "scan.pdf")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 and no more")
    (tmp_path / "report.pdf").write_bytes(_pdf("Parcels leave the store"))
    found = {record.id: record for record in _read(tmp_path)}
    hours, report = found["hours.docx"], found["report.pdf"]
    assert isinstance(hours, SourceDocument)
    assert (hours.title, hours.text.split()) == (
        "Opening hours",
        ["Opening", "hours", "From", "nine", "to", "five.", "Monday"],
    )
    assert isinstance(report, SourceDocument)
    assert "Parcels leave the store" in report.text
    for name, reason in {"scan.pdf": "no text", "broken.pdf": "no PDF that can be read"}.items():
        reject = found[name]
        assert isinstance(reject, Reject)
        assert reason in reject.reason
    assert not caplog.records  # a library's own words come without the file's name


def _pdf(text: str) -> bytes:
    """The smallest file with a line of text."""
    stream = f"BT /F1 12 Tf 10 10 Td ({text}) Tj ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 50] /Contents 4 0 R "
        "/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
    ]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 5\n0000000000 65535 f \n{table}trailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return (body + end).encode()


def test_pdf_and_word_files_are_named_where_their_libraries_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "reader_of", lambda suffix: None)
    for name in ("a.pdf", "b.PDF", "c.docx", "d.txt"):
        (tmp_path / name).write_text("x")
    source = open_source(str(tmp_path))
    assert source.passed_over == {".pdf": 2, ".docx": 1}
    assert "3 files (.pdf, .docx)" in source.said[0]
    assert "sluice-retrieval[documents]" in source.said[0]


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "films.csv.bz2", "films.tsv.xz"])
def test_a_compressed_file_is_unpacked_on_the_way(tmp_path: Path, name: str) -> None:
    content = {
        "j": '{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}',
        "c": "id,text\na,x\nb,y\n",
        "t": "id\ttext\na\tx\nb\ty\n",
    }
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[name.rpartition(".")[2]]
    packed = pack(content[name.split(".")[1][0]].encode())
    (tmp_path / name).write_bytes(packed)
    found = _read(tmp_path / name)
    assert [record.id for record in found] == ["a", "b"]
    assert list(open_source(str(tmp_path / name)).read(found[0].mark)) == found[1:]
    (tmp_path / name).write_bytes(packed[:-6])
    with pytest.raises(Problem, match=r"damaged|cannot be read"):
        _read(tmp_path / name)


@pytest.mark.parametrize("layout", ["{}", "\n  {}\n", "\ufeff{}"])
@pytest.mark.parametrize("name", ["corpus.json", "corpus.jsonl"])
def test_one_array_of_objects_is_read_as_its_elements(tmp_path: Path, layout: str, name: str) -> None:
    elements = [{"id": f"d{n}", "text": "é" * n, "year": n} for n in range(1, 40)]
    (tmp_path / name).write_text(layout.format(json.dumps(elements, indent=2, ensure_ascii=False)), encoding="utf-8")
    found = _read(tmp_path / name)
    assert [record.id for record in found] == [element["id"] for element in elements]
    assert found[-1].mark.position <= (tmp_path / name).stat().st_size
    assert list(open_source(str(tmp_path / name)).read(found[6].mark)) == found[7:]


def test_an_array_is_read_in_parts_and_ends_where_it_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "_PART_BYTES", 7)
    path = tmp_path / "corpus.json"
    good = ", ".join(json.dumps({"id": f"d{n}", "text": f"ü{n}"}, ensure_ascii=False) for n in range(9))
    for end, reason in {"": "ends early", ", {'no'}]": "is not JSON", ', {"id": "x"': "is not JSON"}.items():
        path.write_text(f"[{good}, 7{end}", encoding="utf-8")
        *found, last = _read(path)
        assert [record.id for record in found if isinstance(record, SourceDocument)] == [f"d{n}" for n in range(9)]
        assert isinstance(last, Reject)
        assert reason in last.reason
        assert "lost" in last.reason
