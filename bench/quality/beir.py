"""Collections with known answers, in the layout of BEIR (Thakur et al., 2021).

    corpus.jsonl            {"_id", "title", "text"} a line
    queries.jsonl           {"_id", "text"} a line; queries.train.jsonl for the split `train`, where there is one
    qrels.tsv               query-id, corpus-id and score below a line of titles; qrels.train.tsv for `train`

BEIR's own `qrels/test.tsv`, `qrels/train.tsv` with one `queries.jsonl` for all splits are read as well. A score above
0 makes a document relevant, a higher one more so; queries that no document answers are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from services.chassis.errors import StartupError
from sluice_client import Document

CORPUS = "corpus.jsonl"
TEST = "test"


@dataclass(frozen=True)
class Dataset:
    """One collection, and the questions of one split."""

    name: str
    split: str
    documents: Sequence[Document]
    queries: Mapping[str, str]
    """Text by id."""
    qrels: Mapping[str, Mapping[str, int]]
    """Grades of relevant documents, by query; every query has one."""

    @cached_property
    def corpus_digest(self) -> str:
        """Change with the documents."""
        return _digest([document.id, document.title, document.text] for document in self.documents)

    @cached_property
    def digest(self) -> str:
        """Change with the documents, the queries or the answers."""
        questions = [
            self.corpus_digest,
            sorted(self.queries.items()),
            sorted(self.qrels.items(), key=lambda item: item[0]),
        ]
        return _digest([questions])


def find(folders: Sequence[Path]) -> list[Path]:
    """The folders that hold a collection: each of them itself, or else those right below it.

    Raises StartupError where one holds none.
    """
    found: list[Path] = []
    for folder in folders:
        inside = [folder] if (folder / CORPUS).is_file() else sorted(path.parent for path in folder.glob(f"*/{CORPUS}"))
        if not inside:
            raise StartupError(
                f"{folder} holds no collection: there is no {CORPUS} in it, nor in a folder in it",
                remedy="Pass a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels.tsv), or one of those.",
            )
        found += inside
    return found


def has_split(folder: Path, split: str) -> bool:
    """True if a collection has answers for a split."""
    return any(path.is_file() for path in _qrels_files(folder, split))


def load(folder: Path, split: str = TEST) -> Dataset:
    """Read a collection. Raises StartupError naming file and line where that cannot be."""
    qrels_file = next((path for path in _qrels_files(folder, split) if path.is_file()), None)
    if qrels_file is None:
        raise StartupError(
            f"{folder} has no answers for the split {split!r}",
            remedy=f"Choose another split, or add {_qrels_files(folder, split)[0].name} (query-id, corpus-id, score).",
        )
    own = folder / f"queries.{split}.jsonl"
    documents = [
        Document(line["_id"], line.get("title") or "", line.get("text") or "") for line in _lines(folder / CORPUS)
    ]
    texts = {line["_id"]: line["text"] for line in _lines(own if own.is_file() else folder / "queries.jsonl")}
    qrels = {
        query: relevant for query, relevant in _qrels(qrels_file).items() if query in texts and any(relevant.values())
    }
    if not qrels:
        raise StartupError(
            f"{qrels_file} answers no query of {folder.name}", remedy="Check that queries and qrels belong together."
        )
    queries = {query: text for query, text in texts.items() if query in qrels}
    return Dataset(folder.resolve().name, split, documents, queries, qrels)


def _qrels_files(folder: Path, split: str) -> list[Path]:
    plain = [folder / "qrels.tsv"] if split == TEST else []
    return [folder / f"qrels.{split}.tsv", *plain, folder / "qrels" / f"{split}.tsv"]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    # Not splitlines(): JSON may hold other line separators than "\n" as they are.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            content["_id"] = str(content["_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise StartupError(
                f'{path}:{number}: not a JSON object with an "_id": {error}', remedy="Repair or remove that line."
            ) from None
        yield content


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines()[1:], start=2):
        try:
            query, document, score = line.split("\t")
            qrels.setdefault(query, {})[document] = max(0, int(score))
        except ValueError:
            raise StartupError(
                f"{path}:{number}: not a query-id, a corpus-id and a whole number, with tabs between them",
                remedy="Repair or remove that line.",
            ) from None
    return qrels


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} cannot be read: {error}", remedy="Check the folder's layout.") from None


def _digest(parts: Iterator[Any] | Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()[:16]
