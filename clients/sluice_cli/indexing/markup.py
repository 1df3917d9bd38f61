"""Title, text and links of Markdown and HTML files, in time that grows with their length."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from markdown_it import MarkdownIt

from sluice_cli.indexing.links import reference_links

# Elements within a line; all others begin a line of their own, so that words of separate elements stay separate.
_INLINE = {
    *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img"),
    *("ins", "kbd", "label", "mark", "nobr", "output", "q", "s", "samp", "small", "span", "strike", "strong", "sub"),
    *("sup", "time", "tt", "u", "var", "wbr"),
}
_SILENT = {"script", "style", "template", "title", "svg:desc", "svg:metadata"}
_NAVIGATION = {"nav", "aside", "footer", "svg"}
_BLOCKS = {"address", "article", "blockquote", "div", "dl", "main", "ol", "p", "pre", "section", "table", "ul"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PART = 2**16

# A title stands near the beginning.
_HEAD_CHARACTERS = 16_384
_LONGEST_FRONT_MATTER = 32_768
_LONGEST_TITLE = 1_000
_FENCES = {"---": ("---", "..."), "+++": ("+++",)}
_PAIR = re.compile(r"[\w-]+[ \t]*[:=]")
_TITLE = re.compile(r"title[ \t]*[:=](.*)", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"[ \t]*\{[#.][^{}]*\}$")


class Page(NamedTuple):
    """Content of a file."""

    title: str
    """Empty where it has none."""
    text: str
    links: Sequence[tuple[str, str]] = ()
    """Targets of links with their words."""
    aliases: Sequence[str] = ()
    """Other names of what it is about."""


def html_content(source: str) -> tuple[str, str]:
    """Read the title, if there is one, and the visible text."""
    page = read_html(source)
    return page.title, page.text


def read_html(source: str) -> Page:
    """Read a page with its links."""
    from lxml import etree  # noqa: PLC0415  # keeps other sources quick

    reader = _Reader()
    parser = etree.HTMLParser(target=reader, encoding="utf-8", huge_tree=True)
    raw = source.replace("\0", "\ufffd").encode(errors="replace")
    for start in range(0, len(raw), _PART):
        parser.feed(raw[start : start + _PART])
    if raw:
        parser.close()
    return Page(reader.title, "\n".join(reader.lines).strip("\n"), reader.links)


def markdown_content(source: str) -> tuple[str, str]:
    """Read the title, of the front matter or else the first heading, and the text after the front matter."""
    page = read_markdown(source)
    return page.title, page.text


def read_markdown(source: str) -> Page:
    """Read a text with its reference links and the aliases of its front matter."""
    title, aliases, text = _front_matter(source)
    title = title or _first_heading(text[:_HEAD_CHARACTERS])
    return Page(title, text, list(reference_links(text)), aliases)


class _Reader:
    """Collects the visible text of a page, line by line, from the events of a parser."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.links: list[tuple[str, str]] = []
        self._line: list[str] = []
        self._titles: dict[str, str] = {}
        self._open: dict[str, int] = {}
        """Numbers of open elements that matter, by their names."""
        self._page_title: list[str] = []
        self._heading: list[str] | None = None
        self._level = ""
        # Places where the innermost link begins.
        self._link = self._link_line = 0
        self._target = ""

    @property
    def title(self) -> str:
        """The first main heading, or else the first of another level, or else the page's title."""
        kinds = ("h1", "other", "page")
        return next((self._titles[kind] for kind in kinds if self._titles.get(kind)), "")

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Note that an element begins."""
        if tag not in _INLINE:
            self._end_line()
        kind = self._kind(tag)
        if kind in _SILENT or kind in _NAVIGATION or kind == "pre":
            self._open[kind] = self._open.get(kind, 0) + 1
        if tag in _HEADINGS:
            self._end_heading()
            if _NAVIGATION.isdisjoint(self._open):
                self._heading, self._level = [], "h1" if tag == "h1" else "other"
        elif tag in _BLOCKS and "".join(self._heading or ()).strip():
            self._end_heading()  # one that was never closed
        if tag == "a":
            self._link, self._link_line = len(self._heading or ()), len(self._line)
            self._target = attributes.get("href", "")

    def end(self, tag: str) -> None:
        """Note that an element ends."""
        if tag == "a" and self._target:
            if _NAVIGATION.isdisjoint(self._open):
                self.links.append((self._target, " ".join("".join(self._line[self._link_line :]).split())))
            self._target = ""
        if tag == "a" and self._heading is not None and not _is_worded(self._heading[self._link :]):
            del self._heading[self._link :]  # a sign that links to the heading itself
            del self._line[self._link_line :]
        if tag in _HEADINGS:
            self._end_heading()
        if tag not in _INLINE:
            self._end_line()
        kind = self._kind(tag)
        if tag == "title" and "page" not in self._titles and "svg" not in self._open:
            self._titles["page"] = " ".join("".join(self._page_title).split())
        if (count := self._open.get(kind, 0)) > 1:
            self._open[kind] = count - 1
        elif count:
            del self._open[kind]

    def data(self, text: str) -> None:
        """Note text."""
        if not _SILENT.isdisjoint(self._open):
            if "title" in self._open and "svg" not in self._open and "page" not in self._titles:
                self._page_title.append(text)
            return
        self._line.append(text)
        if self._heading is not None and "svg" not in self._open:
            self._heading.append(text)

    def close(self) -> None:
        """Note the end of the page."""
        self._end_heading()
        self._end_line()

    def _kind(self, tag: str) -> str:
        """Return the name of an element; some say nothing within a drawing only."""
        return f"svg:{tag}" if tag in ("desc", "metadata") and "svg" in self._open else tag

    def _end_line(self) -> None:
        text = "".join(self._line)
        self._line.clear()
        if "pre" not in self._open:
            if words := " ".join(text.split()):
                self.lines.append(words)
        elif text:
            self.lines += [line.rstrip() for line in text.removeprefix("\n").rstrip().split("\n")]

    def _end_heading(self) -> None:
        if title := " ".join("".join(self._heading or ()).split())[:_LONGEST_TITLE]:
            self._titles.setdefault(self._level, title)
        self._heading = None


def _is_worded(parts: list[str]) -> bool:
    """True if a text has a letter or a digit, or is empty."""
    text = "".join(parts).strip()
    return not text or any(map(str.isalnum, text))


def _front_matter(source: str) -> tuple[str, Sequence[str], str]:
    """Return title and aliases of the front matter, and the text after it; a text without is returned as it is."""
    head = source[: _LONGEST_FRONT_MATTER + 1]
    first, *lines = head.split("\n")
    ends = _FENCES.get(first.rstrip(), ())
    end = next((place for place, line in enumerate(lines) if line.rstrip() in ends), None)
    if end is None:
        return "", (), source
    content = "\n".join(line.rstrip("\r") for line in lines[:end])
    fields = _fields_of(content, toml=first.startswith("+"))
    if fields is None:
        return "", (), source
    title = fields.get("title", fields.get("Title", ""))
    title = str(title) if isinstance(title, str | int | float) else ""
    text = source[len("\n".join([first, *lines[: end + 1]])) :].lstrip("\r\n")
    return " ".join(title.split())[:_LONGEST_TITLE], _aliases(fields.get("aliases")), text


def _fields_of(content: str, *, toml: bool) -> Mapping[str, Any] | None:
    """Return the fields of front matter as far as they can be read; None if it is no front matter."""
    found: Any
    try:
        found = tomllib.loads(content) if toml else yaml.load(content, Loader=yaml.BaseLoader)  # noqa: S506  # a loader of text alone
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError, ValueError):
        # Written for another tool, perhaps with its own signs in it.
        pairs = [line for line in content.split("\n") if line.strip() and not line.startswith(("#", " ", "\t", "-"))]
        if not pairs or not all(map(_PAIR.match, pairs)):
            return None
        titles = [match[1].strip(" \t\"'") for line in pairs if (match := _TITLE.fullmatch(line))]
        return {"title": titles[0]} if titles else {}
    if found is None or found == "":
        return {} if not content.strip() or content.lstrip().startswith("#") else None
    return found if isinstance(found, dict) else None


def _aliases(given: Any) -> Sequence[str]:
    """Return the names among aliases; some tools have former addresses of the page there."""
    names = given if isinstance(given, list) else [given]
    return [name for name in names if isinstance(name, str) and "/" not in name]


def _first_heading(text: str) -> str:
    """Find the first heading of a Markdown text, as a reader sees it, or ""."""
    blocks = MarkdownIt("commonmark").disable(["inline", "reference"], ignoreInvalid=True)
    tokens = blocks.parse(text)
    for token, following in zip(tokens, tokens[1:] + tokens[:1], strict=True):
        title = ""
        if token.type == "heading_open":
            title = _plain_title(following.content[:_LONGEST_TITLE])
        elif token.type == "html_block" and re.search("<h[1-6]", token.content, re.IGNORECASE):
            title = html_content(token.content)[0]
        if title:
            return title
    return ""


def _plain_title(content: str) -> str:
    """Return a heading without its marks."""
    (line,) = MarkdownIt("commonmark").parseInline(_ATTRIBUTES.sub("", content))
    parts = [child.content for child in line.children or () if child.type in ("text", "code_inline")]
    return " ".join("".join(parts).split()) or content
