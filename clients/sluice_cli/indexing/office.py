"""Title and text of PDF and Word files, by libraries that are an extra."""

from __future__ import annotations

import importlib.util
import logging
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from sluice_cli.indexing.records import MAX_RECORD_BYTES, Rejected

PACKAGES = "pypdf and python-docx"
INSTALL = "pip install 'sluice-retrieval[documents]'"
_MODULES = {".pdf": "pypdf", ".docx": "docx"}
SUFFIXES = tuple(_MODULES)
_MAX_FILE_BYTES = 256 * 2**20
_MAX_UNPACKED_BYTES = 512 * 2**20

Content = tuple[str, str]


@cache
def reader_of(suffix: str) -> Callable[[Path], Content] | None:
    """Return the reader of files with this ending; None if its library is not there."""
    if importlib.util.find_spec(_MODULES[suffix]) is None:
        return None
    return _pdf if suffix == ".pdf" else _docx


def content(path: Path) -> Content:
    """Read title and text. Raises Rejected."""
    kind = path.suffix.lower()
    read = reader_of(kind)
    assert read is not None  # noqa: S101  # such files are passed over
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise Rejected(f"is longer than {_MAX_FILE_BYTES // 2**20} MiB; split it")
    try:
        return read(path)
    except (Rejected, OSError):
        raise
    except Exception as error:  # whatever a damaged file does to the library
        raise Rejected(f"is no {kind[1:].upper()} that can be read: {type(error).__name__}: {error}") from None


def _pdf(path: Path) -> Content:
    from pypdf import PdfReader  # noqa: PLC0415  # an extra

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it tells is in the reason, with the file's name
    with PdfReader(path) as reader:
        if reader.is_encrypted and not reader.decrypt(""):
            raise Rejected("is encrypted")
        text = _joined(page.extract_text() for page in reader.pages)
        if not text.strip():
            raise Rejected("holds no text; are its pages pictures?")
        title = reader.metadata.title if reader.metadata else ""
        return " ".join(str(title or "").split()), text


def _docx(path: Path) -> Content:
    from docx import Document  # noqa: PLC0415  # an extra

    with zipfile.ZipFile(path) as parts:
        if sum(part.file_size for part in parts.infolist()) > _MAX_UNPACKED_BYTES:
            raise Rejected("is too large when it is unpacked")
    document = Document(str(path))
    heading = next((part.text for part in document.paragraphs if _is_heading(part) and part.text.strip()), "")
    title = " ".join((document.core_properties.title or heading).split())
    return title, _joined(_blocks(document))


def _is_heading(paragraph: Any) -> bool:
    return str(paragraph.style.name if paragraph.style else "").startswith(("Title", "Heading"))


def _blocks(container: Any) -> Iterator[str]:
    """Iterate over the texts of paragraphs and of the rows of tables, in their order."""
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                yield "\t".join(" ".join(cell.text.split()) for cell in row.cells)
        else:
            yield block.text


def _joined(parts: Iterator[str]) -> str:
    """Join parts into paragraphs. Raises Rejected if they are too long."""
    found, length = [], 0
    for part in parts:
        raw = part.encode(errors="replace")
        length += len(raw)
        if length > MAX_RECORD_BYTES:
            raise Rejected(f"has more than {MAX_RECORD_BYTES // 2**20} MiB of text; split it")
        found.append(raw.decode().strip("\n"))
    return "\n\n".join(part for part in found if part.strip())
