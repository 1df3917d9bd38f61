from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.indexing.markup import html_content, markdown_content


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Rolling back\n\ntext", "Rolling back"),
        ("text first\n\n## Then a heading ##\n# another", "Then a heading"),
        ("Rolling back\n============\n\ntext", "Rolling back"),
        ("```sh\n# a comment\n```\n# The heading", "The heading"),
        ("---\nlang: en\n# not this\n---\n# The heading", "The heading"),
        ("#hashtag\n", ""),
        ("no heading", ""),
        ("", ""),
    ],
)
def test_the_title_of_markdown_is_its_first_heading(text: str, title: str) -> None:
    assert markdown_content(text)[0] == title


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


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("<!--\n# Draft, do not publish\n-->\n\n# Opening hours\n", "Opening hours"),
        ("<!-- # Draft -->\n# Opening hours\n", "Opening hours"),
        ("# Using `sluice` with *care* and [links](http://x/y) {#using}\n", "Using sluice with care and links"),
        ('<h1 align="center">Sluice</h1>\n\ntext', "Sluice"),
        ("    # indented code\n\nHeading\n=======\n", "Heading"),
        ("~~~~\n```\n# code\n~~~~\n# Heading", "Heading"),
    ],
)
def test_the_title_of_markdown_is_what_a_reader_sees_as_the_heading(text: str, title: str) -> None:
    assert markdown_content(text) == (title, text)


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ntitle: Parking for visitors\nlang: en\n---\n", "Parking for visitors"),
        ('---\r\ntitle: "Parking: visitors"\r\n---\r\n', "Parking: visitors"),
        ("---\ntitle: >\n  Parking\n  for all\n...\n", "Parking for all"),
        ('+++\n# written by the generator\ntitle = "Delivery times"\n+++\n', "Delivery times"),
        ("---\ntitle: Say {{ name }}: hello\nweight: {{ n }}\n---\n", "Say {{ name }}: hello"),
        ("---\nlang: en\n---\n", "Heading"),
        ("---\ntitle: [a, list]\n---\n", "Heading"),
        ("---\n---\n", "Heading"),
    ],
)
def test_front_matter_is_no_text_and_gives_the_title(front: str, title: str) -> None:
    assert markdown_content(f"{front}\n# Heading\n\nText.\n") == (title, "# Heading\n\nText.\n")


@pytest.mark.parametrize(
    "text",
    [
        "---\nA line between two rules.\n---\n",
        "---\n- a list\n---\n",
        "---\nno end: of it\n",
        "+++\nnot toml\n+++\n",
        "--- \n",
    ],
)
def test_what_only_looks_like_front_matter_is_text(text: str) -> None:
    assert markdown_content(text)[1] == text


def test_words_of_separate_elements_stay_separate_and_parts_of_words_together() -> None:
    page = (
        "<details><summary>refunds</summary>money</details><my-card>one</my-card>two<button>buy</button>now "
        "<b>bo</b>ld <option>red<option>green<td>a<td>b<caption>c</caption>d<legend>e</legend>f"
    )
    expected = "refunds money one two buy now bold red green a b c d e f"
    assert html_content(page)[1].split() == expected.split()


def test_preformatted_text_keeps_its_indentation_and_its_blank_lines() -> None:
    page = "<h1>Loop</h1><pre>\nfor lamp in lamps:\n    if <b>lamp.on</b>:\n\n        dim()\n</pre><p>  after   it</p>"
    assert html_content(page) == ("Loop", "Loop\nfor lamp in lamps:\n    if lamp.on:\n\n        dim()\nafter it")


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ('<title>Guide</title><h1>Loops<a class="headerlink" href="#l">¶</a></h1>', "Loops"),
        ('<h2><a href="#x">#</a> Loops <a href="#l"><span>🔗</span></a></h2>', "Loops"),
        ('<h1>See <a href="/x">loops</a></h1>', "See loops"),
        ("<title>Billing guide</title><svg><title>Close icon</title></svg><p>Text", "Billing guide"),
        ("<svg><title>Close icon</title></svg><title>Billing guide</title><p>Text", "Billing guide"),
        ("<h1><svg><title>Close</title><text>X</text></svg>Billing guide</h1>", "Billing guide"),
        ("<nav><h2>Menu</h2></nav><h1>Billing guide</h1>", "Billing guide"),
        ("<h2>News</h2><h1>Billing guide</h1>", "Billing guide"),
        ("<title>Billing guide</title><!-- <h1>Draft</h1> --><p>Text", "Billing guide"),
        ("<title>Billing guide</title><script>'<h1>no</h1>'</script><p>Text", "Billing guide"),
    ],
)
def test_the_title_is_what_a_reader_would_call_the_page(page: str, title: str) -> None:
    found, text = html_content(page)
    assert found == title
    assert "¶" not in text
    assert "Close" not in text


_PATHS = {
    "comments": "<!--", "blanks": " ", "heading": None, "open": "<", "ends": "</", "elements": "<div>",
    "fonts": "<font>x<p>", "attributes": "<a b=1 ", "quotes": "<a href='", "instructions": "<?",
    "sections": "<![CDATA[", "entities": "&", "hashes": "# ", "rules": "---\n", "quoted": "> ", "lists": "- ",
    "links": "[", "fences": "```\n", "underlined": "a\n===\n", "anchors": "<h1><a>", "preformatted": "<pre>\n",
    "pairs": "a: b\n", "keys": "? ", "braces": "{", "backticks": "`", "stars": "*a ",
}  # fmt: skip


@pytest.mark.parametrize("name", _PATHS)
@pytest.mark.parametrize("read", [html_content, markdown_content])
def test_time_grows_with_the_length_of_a_text_whatever_it_is(read: Callable[[str], tuple[str, str]], name: str) -> None:
    def text(length: int) -> str:
        repeated = _PATHS[name]
        if repeated is None:
            return f"# a{' ' * length}x"
        return ("---\n" if name in ("pairs", "keys", "braces") else "") + repeated * (length // len(repeated))

    def seconds(length: int) -> float:
        content, times = text(length), []
        for _ in range(3):
            began = time.process_time()
            read(content)
            times.append(time.process_time() - began)
        return statistics.median(times)

    # Eight times the length: a square would take 64 times as long.
    assert seconds(800_000) <= 24 * max(seconds(100_000), 0.01)
