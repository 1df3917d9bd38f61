"""Title and text of Markdown and HTML files."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SILENT = {"script", "style", "template"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset", "figcaption", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre"),
    *("section", "table", "td", "th", "tr", "ul"),
}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_HASH_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(.+?)(\s+#+)?\s*")
_UNDERLINE = re.compile(r"\s{0,3}=+\s*")


def markdown_title(text: str) -> str:
    """Find the first heading of a Markdown text, or ""."""
    lines = text.splitlines()
    if lines[:1] == ["---"] and "---" in lines[1:]:  # front matter
        del lines[: lines.index("---", 1) + 1]
    fenced = False
    before = ""
    for line in lines:
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            if heading := _HASH_HEADING.fullmatch(line):
                return heading[1]
            if before.strip() and _UNDERLINE.fullmatch(line):
                return before.strip()
        before = line
    return ""


def html_content(source: str) -> tuple[str, str]:
    """Read the title, if there is one, and the visible text."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.text).splitlines())
    heading, title = (" ".join("".join(parts).split()) for parts in (reader.heading, reader.title))
    return heading or title, "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    """Collects the visible text of a page, as forgiving as browsers are."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.heading: list[str] = []
        self.title: list[str] = []
        self._open: list[str] = []
        self._heading_ended = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.text.append("\n")
            self._end_heading()  # also one that was never closed
        if tag in _SILENT or tag in _HEADINGS or tag in ("title", "pre"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.text.append("\n")
        if tag in self._open:
            del self._open[self._open.index(tag) :]
        if tag in _HEADINGS:
            self._end_heading()

    def handle_data(self, data: str) -> None:
        if not _SILENT.isdisjoint(self._open):
            return
        if "title" in self._open:
            self.title.append(data)
            return
        self.text.append(data if "pre" in self._open else re.sub(r"\s+", " ", data))
        if not self._heading_ended and not _HEADINGS.isdisjoint(self._open):
            self.heading.append(data)

    def _end_heading(self) -> None:
        self._heading_ended = self._heading_ended or bool("".join(self.heading).strip())
