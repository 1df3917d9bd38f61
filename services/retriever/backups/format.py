"""Format of a snapshot: parts of passages as columns, and a manifest (see docs/adr/0058-snapshots-of-our-own.md).

A part is a ZIP archive of these columns, so any tool can read it:

    keys.jsonl            a passage a line: its id and its revision
    payload.jsonl         the same passages: title, text, metadata, chunk (number, count, start, end), and relations
                          (aliases, mentions, links) where there are some
    vectors.f32           their vectors, one after the other
    words.counts.u32      number of terms of each
    words.terms.u32       the terms, one passage after the other
    words.weights.f32     the weights of the terms
    tokens.counts.u32     number of token vectors of each passage; this and the next only where there are some
    tokens.u8             the token vectors, one passage after the other
    gone.jsonl            points that an earlier part holds and that have been deleted since

Numbers are little-endian. The parts are applied in their order: a passage of a later one replaces that of an earlier.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np

from services.chassis.errors import FailedPrecondition
from services.late.codes import Codes
from services.retriever.documents import NO_RELATIONS, Chunk, Passage, Relations
from services.retriever.lexical import SparseVector
from services.retriever.store import PointId, Row, point_id

FORMAT = 1
MANIFEST = "manifest.json"

_KEYS, _PAYLOAD, _VECTORS, _GONE = "keys.jsonl", "payload.jsonl", "vectors.f32", "gone.jsonl"
_COUNTS, _TERMS, _WEIGHTS = "words.counts.u32", "words.terms.u32", "words.weights.f32"
_NUMBERS = {_VECTORS: "<f4", _COUNTS: "<u4", _TERMS: "<u4", _WEIGHTS: "<f4"}
_TOKEN_COUNTS, _TOKENS = "tokens.counts.u32", "tokens.u8"
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a snapshot."""

    name: str
    size_bytes: int
    sha256: str
    passages: int
    gone: int
    """Points of earlier parts that it removes."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description of a whole snapshot; it is written last."""

    version: str
    """The version that it was taken of."""
    created: str
    """Time at which the last comparison with the version began, in ISO format: the snapshot is as it was then."""
    passages: int
    keys_sha256: str
    """Of the ids and revisions of all passages, see `ledger`."""
    notes: Mapping[str, Any]
    """Those of the version: model, words, fields, layout."""
    parts: Sequence[Part]

    def to_bytes(self) -> bytes:
        """Write the manifest, with a digest of itself in which the digest stands as zeros."""
        written = json.dumps({"sha256": _NO_DIGEST, "format": FORMAT, **asdict(self)}, indent=1).encode()
        return written.replace(_NO_DIGEST.encode(), hashlib.sha256(written).hexdigest().encode(), 1)

    @classmethod
    def from_bytes(cls, written: bytes, name: str) -> Self:
        """Read a manifest; FailedPrecondition (SNAPSHOT_DAMAGED) if a byte of it is not as it was written."""
        try:
            fields = json.loads(written)
            digest = fields.pop("sha256")
            blank = written.replace(digest.encode(), _NO_DIGEST.encode(), 1)
            if hashlib.sha256(blank).hexdigest() != digest:
                raise damaged(name, MANIFEST)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(name, MANIFEST) from error
        if (made_by := fields.pop("format")) != FORMAT:
            raise FailedPrecondition(
                f"snapshot {name!r} has format {made_by}, and this release reads format {FORMAT}; restore it with the "
                "release that made it",
                reason="SNAPSHOT_FORMAT",
            )
        return cls(**{**fields, "parts": [Part(**part) for part in fields["parts"]]})


def damaged(name: str, file: str) -> FailedPrecondition:
    """Make the error for a snapshot of which a file is not as it was written."""
    return FailedPrecondition(
        f"{file} of snapshot {name!r} is not as it was written; nothing was restored, restore another snapshot",
        reason="SNAPSHOT_DAMAGED",
    )


def write_part(rows: Sequence[Row], gone: Sequence[PointId]) -> bytes:
    """Write the columns of these passages, and the points that are gone."""
    words = [row.words for row in rows]
    columns = {
        _VECTORS: np.concatenate([_vector(row) for row in rows]) if rows else np.empty(0),
        _COUNTS: np.array([len(word.indices) for word in words]),
        _TERMS: np.array([index for word in words for index in word.indices]),
        _WEIGHTS: np.array([value for word in words for value in word.values]),
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        archive.writestr(_entry(_KEYS), _lines([row.passage.id, row.revision] for row in rows))
        archive.writestr(_entry(_PAYLOAD), _lines(_payload(row.passage) for row in rows))
        archive.writestr(_entry(_GONE), _lines(gone))
        for name, numbers in columns.items():
            archive.writestr(_entry(name), numbers.astype(_NUMBERS[name]).tobytes())
        if tokens := [codes for row in rows if (codes := row.passage.tokens) is not None]:
            counts = [0 if row.passage.tokens is None else len(row.passage.tokens) for row in rows]
            archive.writestr(_entry(_TOKEN_COUNTS), np.array(counts, "<u4").tobytes())
            archive.writestr(_entry(_TOKENS), np.concatenate(tokens).tobytes())
    return made.getvalue()


def read_part(written: bytes) -> tuple[Iterator[Row], Sequence[PointId]]:
    """Read the passages of a part, one after the other, and the points that are gone. Check its digest first."""
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        keys, payload, gone = (_parsed(archive.read(name)) for name in (_KEYS, _PAYLOAD, _GONE))
        numbers = {name: np.frombuffer(archive.read(name), kind) for name, kind in _NUMBERS.items()}
        tokens = _read_tokens(archive, len(keys))
    vectors = numbers[_VECTORS].reshape(len(keys), -1) if keys else np.empty((0, 0), np.float32)
    bounds = pairwise(accumulate(numbers[_COUNTS].tolist(), initial=0))
    terms, weights = numbers[_TERMS].tolist(), numbers[_WEIGHTS].tolist()

    def rows() -> Iterator[Row]:
        columns = zip(keys, payload, vectors, bounds, tokens, strict=True)
        for (passage_id, revision), fields, vector, (start, end), codes in columns:
            chunk = Chunk(*fields["chunk"]) if fields["chunk"] else None
            relations = Relations.of(*fields["relations"]) if "relations" in fields else NO_RELATIONS
            passage = Passage(
                passage_id, fields["text"], fields["title"], fields["metadata"], vector, chunk, codes, relations
            )
            yield Row(point_id(passage_id), passage, revision, SparseVector(terms[start:end], weights[start:end]))

    return rows(), gone


def _read_tokens(archive: zipfile.ZipFile, passages: int) -> list[Codes | None]:
    if _TOKENS not in archive.namelist():
        return [None] * passages
    counts = np.frombuffer(archive.read(_TOKEN_COUNTS), "<u4")
    rows = np.frombuffer(archive.read(_TOKENS), np.uint8).reshape(int(counts.sum()), -1)
    bounds = pairwise(accumulate(counts.tolist(), initial=0))
    return [rows[start:end] if end > start else None for start, end in bounds]


def _vector(row: Row) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert row.passage.vector is not None  # noqa: S101  read with Parts.VECTOR
    return row.passage.vector


def _payload(passage: Passage) -> dict[str, Any]:
    chunk = passage.chunk and [passage.chunk.number, passage.chunk.count, passage.chunk.start, passage.chunk.end]
    payload = {"title": passage.title, "text": passage.text, "metadata": dict(passage.metadata), "chunk": chunk}
    said = passage.relations
    return payload | ({"relations": [said.aliases, said.mentions, said.links]} if said else {})


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of 1980: the same passages make the same bytes
    # Vectors of a model hardly get smaller.
    entry.compress_type = zipfile.ZIP_STORED if name in (_VECTORS, _TOKENS) else zipfile.ZIP_DEFLATED
    return entry


def _lines(values: Any) -> str:
    return "".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n" for value in values)


def _parsed(lines: bytes) -> list[Any]:
    return [json.loads(line) for line in lines.decode().split("\n") if line]
