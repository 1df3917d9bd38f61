"""Files as documents: those below a folder, or one alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sluice_cli.calls import Problem
from sluice_cli.indexing import office
from sluice_cli.indexing.links import relations_of
from sluice_cli.indexing.markup import Page, read_html, read_markdown
from sluice_cli.indexing.records import (
    BEGINNING,
    MAX_RECORD_BYTES,
    Mark,
    Record,
    Reject,
    Rejected,
    SourceDocument,
    decoded,
    state_of,
)

_READERS: Mapping[str, Callable[[str], Page]] = {
    **dict.fromkeys((".html", ".htm"), read_html),
    **dict.fromkeys((".md", ".markdown"), read_markdown),
    **dict.fromkeys((".txt", ".text", ".rst"), lambda text: Page("", text)),
}
_KINDS = "text (.txt, .text, .rst), Markdown (.md, .markdown), HTML (.html, .htm), PDF or Word (.docx)"


class Files:
    """The documents below a folder without hidden ones, or one of them. Their ids are their paths in the folder."""

    def __init__(self, root: Path, only: Path | None = None) -> None:
        self.name = str(only or root)
        self.said: list[str] = []
        self.suspect = False
        self._root = root
        self._inside = root.resolve()
        self._only = only
        passed_over: Counter[str] = Counter()
        links: list[str] = []
        if only is None:
            with os.scandir(root):  # fails here and now if it cannot be read
                pass
        size, digest = 0, hashlib.sha256()
        self.whole = True
        """False if there are folders that cannot be read."""
        for found in self._walk(links):
            if isinstance(found, Reject):
                size += 1
                self.whole = False
            elif is_document(found):
                size += 1
                with contextlib.suppress(OSError):  # reported when it is read
                    digest.update(f"{found}: {state_of(found)}\n".encode(errors="surrogateescape"))
            else:
                passed_over[found.suffix.lower() or "no ending"] += 1
        self.size: int | None = size
        self.state: str | None = digest.hexdigest()
        self.passed_over: Mapping[str, int] = passed_over
        if links:
            self.said.append(f"{len(links):,} links that lead out of {root} are not followed, the first: {links[0]}")
        if missing := [kind for kind in office.SUFFIXES if passed_over[kind]]:
            self.said.append(
                f"{sum(passed_over[kind] for kind in missing):,} files ({', '.join(missing)}) are passed over, as "
                f"{office.PACKAGES} are not installed: {office.INSTALL}"
            )
        if not size:
            reason = "; ".join([f"{root} holds no {_KINDS} file", *self.said])
            raise Problem(reason, "name another folder, or a file of JSON lines: sluice index FOLDER/FILE.jsonl")

    def read(self, after: Mark = BEGINNING) -> Iterator[Record]:
        """Read the records; see Source."""
        readable = (found for found in self._walk() if isinstance(found, Reject) or is_document(found))
        for position, found in enumerate(readable, start=1):
            if position <= after.position:
                continue
            if isinstance(found, Reject):
                yield replace(found, position=position)
                continue
            identity = self._identity(found)
            try:
                page = _content(found)
            except OSError as error:
                yield Reject(None, identity, f"cannot be read: {error.strerror}", position)
            except Rejected as rejected:
                yield Reject(None, identity, str(rejected), position)
            else:
                relations = relations_of(page.links, page.aliases, identity=identity)
                yield SourceDocument(identity, page.title, page.text, relations=relations, position=position)

    def ids(self) -> set[str]:
        """Return the ids of all documents that there are, readable or not."""
        return {self._identity(found) for found in self._walk() if isinstance(found, Path) and is_document(found)}

    def _identity(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _walk(self, links: list[str] | None = None) -> Iterator[Path | Reject]:
        """Iterate over files in a fixed order, and over unreadable folders; note the links that lead out."""
        if self._only is not None:
            yield self._only
            return
        unreadable: list[OSError] = []
        for folder, folders, files in os.walk(self._root, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
            if links is not None:
                links += [self._identity(path) for name in folders if self._leads_out(path := Path(folder, name))]
                links += [self._identity(path) for path in paths if self._leads_out(path)]
            yield from (path for path in paths if not self._leads_out(path))
        for error in unreadable:
            name = Path(os.fsdecode(error.filename)).relative_to(self._root).as_posix()
            yield Reject(None, name, f"this folder cannot be read: {error.strerror}")

    def _leads_out(self, path: Path) -> bool:
        """True for a link to something that is not below the folder."""
        if not path.is_symlink():
            return False
        try:
            return not path.resolve().is_relative_to(self._inside)
        except (OSError, RuntimeError):  # a link to itself
            return True


def is_document(path: Path) -> bool:
    """True if a file is read."""
    suffix = path.suffix.lower()
    return (
        suffix in _READERS or (suffix in office.SUFFIXES and office.reader_of(suffix) is not None)
    ) and path.is_file()


def _content(path: Path) -> Page:
    """Read a file."""
    suffix = path.suffix.lower()
    if read := _READERS.get(suffix):
        with path.open("rb") as stream:
            raw = stream.read(MAX_RECORD_BYTES + 1)
        page = read(decoded(raw, len(raw)).removeprefix("\ufeff"))
    else:
        page = Page(*office.content(path))
    if not page.text.strip():
        raise Rejected("holds no text")
    return page._replace(title=page.title or path.name)
