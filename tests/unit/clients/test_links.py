from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.indexing.files import Files
from sluice_cli.indexing.json_records import JsonLines
from sluice_cli.indexing.links import MOST_NAMES, relations_of
from sluice_cli.indexing.markup import read_html, read_markdown
from sluice_cli.indexing.records import Record, Reject, SourceDocument
from sluice_client import Relations


def read(folder: Path) -> dict[str, Relations | None]:
    return {one.id: one.relations for one in Files(folder).read() if isinstance(one, SourceDocument)}


def read_json(*records: Any) -> list[Record]:
    raw = "".join(json.dumps(record) + "\n" for record in records).encode()
    return list(JsonLines("x", BytesIO(raw), len(raw), None).read())


def test_links_of_html_lead_to_documents_and_their_words_are_mentioned() -> None:
    page = read_html(
        '<h1>A <a href="#a">#</a></h1><p>See <a href="../b/c.html?x=1#part">the <b>rules</b> of C</a>, '
        '<a href="mailto:x@y">us</a> and <a href="https://example.org/d">D</a>.</p>'
        '<nav><a href="home.html">Home</a></nav><p><a name="here">no link</a>'
    )
    assert relations_of(page.links) == Relations((), ("the rules of C", "D"), ("../b/c.html", "https://example.org/d"))


def test_reference_links_of_markdown_count_where_they_are_used() -> None:
    page = read_markdown(
        "See [the guide][1], [Setup] and [plain](inline.md); a [footnote][^1].\n\n"
        "[1]: guide.md 'Guide'\n[setup]: <../Set%20up.md>\n[unused]: unused.md\n[^1]: a note\n"
    )
    assert relations_of(page.links) == Relations((), ("the guide", "Setup"), ("guide.md", "../Set up.md"))


@pytest.mark.parametrize(
    ("front", "aliases"),
    [
        ("---\ntitle: X\naliases: [First, Second name, /old/path/]\n---\n", ("First", "Second name")),
        ("---\naliases: Only\n---\n", ("Only",)),
        ('+++\naliases = ["First"]\n+++\n', ("First",)),
        ("---\ntitle: X\n---\n", None),
        ("---\naliases: {a: b}\n---\n", None),
    ],
)
def test_front_matter_gives_other_names(front: str, aliases: tuple[str, ...] | None) -> None:
    page = read_markdown(f"{front}\ntext\n")
    assert relations_of(page.links, page.aliases) == (Relations(aliases) if aliases else None)


def test_a_folder_is_related_as_its_links_say(tmp_path: Path) -> None:
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "a.html").write_text('<p>A <a href="/b.md">root</a> <a href="c.html">near</a>')
    (tmp_path / "b.md").write_text("---\naliases: [Bee]\n---\nSee [the start][s].\n\n[s]: guide/a.html\n")
    (tmp_path / "plain.txt").write_text("nothing")
    assert read(tmp_path) == {
        "guide/a.html": Relations((), ("root", "near"), ("../b.md", "c.html")),
        "b.md": Relations(("Bee",), ("the start",), ("guide/a.html",)),
        "plain.txt": None,
    }


def test_records_of_json_may_have_relations() -> None:
    said, silent, *wrong = read_json(
        {"id": "a", "text": "x", "relations": {"aliases": ["A"], "links": ["b"]}},
        {"id": "b", "text": "x", "relations": None},
        {"id": "c", "text": "x", "relations": {"links": "b"}},
        {"id": "d", "text": "x", "relations": {"parents": []}},
        {"id": "e", "text": "x", "relations": ["a"]},
    )
    assert isinstance(said, SourceDocument)
    assert (said.relations, said.metadata) == (Relations(["A"], links=["b"]), {})
    assert isinstance(silent, SourceDocument)
    assert silent.relations is None
    assert [one.reason for one in wrong if isinstance(one, Reject)] == [
        "has \"relations\" with a 'links' that is no list of strings",
        "has \"relations\" with 'parents'; they have aliases, mentions, links",
        'has a "relations" that is no object',
    ]


def test_no_more_is_given_than_a_gateway_takes() -> None:
    links = [(f"{place}.html", "x" * 2000) for place in range(400)]
    relations = relations_of([*links, ("y" * 1025, "long")])
    assert relations is not None
    assert (len(relations.links), relations.mentions) == (MOST_NAMES, ("long",))


@given(text=st.text(alphabet="[]()<>:/^a1 \n#?%.-"))
def test_no_text_is_too_odd_for_its_links_to_be_read(text: str) -> None:
    relations_of(read_markdown(text).links)
    relations_of(read_html(f'<a href="{text}">{text}</a>').links)
