from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.indexing.markup import html_content, markdown_title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Rolling back\n\ntext", "Rolling back"),
        ("text first\n\n## Then a heading ##\n# another", "Then a heading"),
        ("Rolling back\n============\n\ntext", "Rolling back"),
        ("```sh\n# a comment\n```\n# The heading", "The heading"),
        ("---\ntitle: x\n# not this\n---\n# The heading", "The heading"),
        ("#hashtag\n", ""),
        ("no heading", ""),
        ("", ""),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(text: str, title: str) -> None:
    assert markdown_title(text) == title


def test_html_becomes_the_text_that_a_reader_sees() -> None:
    page = """<!doctype html><html><head><title>Page</title><style>p { color: red }</style></head>
      <body><script>alert("<p>no</p>")</script><h1>Rolling <em>back</em></h1>
      <p>One command,   under a&nbsp;second &amp; safe.</p><ul><li>first</li><li>second</li></ul>
      <pre>a
b</pre></body></html>"""
    title, text = html_content(page)
    assert title == "Rolling back"
    assert text.splitlines() == ["Rolling back", "One command, under a second & safe.", "first", "second", "a", "b"]


def test_a_page_without_heading_has_the_title_of_the_page() -> None:
    assert html_content("<title> The\n page </title><p>text</p>") == ("The page", "text")


def test_a_heading_that_is_empty_is_passed_over() -> None:
    assert html_content("<h1> <img></h1><h2>Second</h2><h3>Third</h3>")[0] == "Second"


def test_a_heading_that_is_never_closed_ends_where_the_text_begins() -> None:
    assert html_content("<h1>Title<p>text<p>more")[0] == "Title"


@pytest.mark.parametrize("page", ["<p>never closed <b>bold", "text</div></p>more", "<h1>open", "a < b & c", "<pre>x"])
def test_broken_html_keeps_its_text(page: str) -> None:
    _, text = html_content(page)
    assert text


@given(page=st.text())
def test_no_page_is_too_broken_to_read(page: str) -> None:
    html_content(page)
