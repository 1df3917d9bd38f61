"""Files of judgments and of queries.

Judgments are read from three forms, which are told apart by their content:

    TREC's qrels    query-id, a field that is ignored, document-id and grade, with blanks between them
    BEIR's table    query-id, corpus-id and score, with tabs between them, below a line of titles
    JSON lines      {"query_id", "document_id", "grade"}, and "query", the text, where it is known

Queries are JSON lines, {"_id", "text"} as in BEIR, or {"query_id", "query"}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sluice_judgments.judgments import Judgments

_TITLES = "query-id\tcorpus-id\tscore"


class Unreadable(Exception):
    """A file that is not what it should be; the message names the line."""


def read_judgments(path: Path) -> Judgments:
    """Read a list in any of the three forms; a grade below 0 is read as 0. Raises Unreadable."""
    lines = list(_lines(path))
    if not lines:
        raise Unreadable(f"{path} holds no judgment")
    first = lines[0][1]
    grades: dict[str, dict[str, int]] = {}
    texts: dict[str, str] = {}
    if first.startswith("{"):
        for number, line in lines:
            found = _object(path, number, line)
            query = _text(path, number, found, "query_id")
            grade = found.get("grade")
            if not isinstance(grade, int) or isinstance(grade, bool):
                raise Unreadable(f'{path}:{number}: "grade" is to be a whole number')
            grades.setdefault(query, {})[_text(path, number, found, "document_id")] = max(0, grade)
            if isinstance(found.get("query"), str) and found["query"].strip():
                texts[query] = found["query"]
        return Judgments(grades, texts)
    table = "\t" in first and len(first.split("\t")) == 3
    titled = table and not first.split("\t")[2].strip().lstrip("-").isdecimal()
    for number, line in lines[titled:]:
        fields = line.split("\t") if table else line.split()
        try:
            query, document, grade_text = fields if table else (fields[0], *fields[2:])
            grades.setdefault(query, {})[document] = max(0, int(grade_text))
        except (ValueError, IndexError):
            wanted = "query-id, corpus-id and score" if table else "query-id, 0, document-id and grade"
            raise Unreadable(f"{path}:{number}: not a {wanted}") from None
    return Judgments(grades)


def read_queries(path: Path) -> dict[str, str]:
    """Read texts of queries by their ids. Raises Unreadable."""
    texts = {}
    for number, line in _lines(path):
        found = _object(path, number, line)
        names = ("_id", "text") if "_id" in found else ("query_id", "query")
        query, text = (_text(path, number, found, name) for name in names)
        texts[query] = text
    if not texts:
        raise Unreadable(f"{path} holds no query")
    return texts


def trec(judgments: Judgments) -> Iterator[str]:
    """Yield the lines of TREC's qrels. Raises ValueError for an id with a blank."""
    for query, document, grade in judgments:
        if len(query.split()) != 1 or len(document.split()) != 1:
            raise ValueError(f"TREC's qrels have no room for the blanks of {query!r} and {document!r}")
        yield f"{query} 0 {document} {grade}\n"


def beir(judgments: Judgments) -> Iterator[str]:
    """Yield the lines of BEIR's table. Raises ValueError for an id with a tab or an end of line."""
    yield f"{_TITLES}\n"
    for query, document, grade in judgments:
        if any(one in query + document for one in "\t\n\r"):
            raise ValueError(f"BEIR's tables have no room for the tabs of {query!r} and {document!r}")
        yield f"{query}\t{document}\t{grade}\n"


def json_lines(judgments: Judgments, more: Mapping[tuple[str, str], Mapping[str, Any]] | None = None) -> Iterator[str]:
    """Yield JSON lines, with more fields for some of the judgments, by query and document."""
    for query, document, grade in judgments:
        known = {"query": judgments.texts[query]} if query in judgments.texts else {}
        line = {"query_id": query, **known, "document_id": document, "grade": grade}
        yield json.dumps({**line, **(more or {}).get((query, document), {})}) + "\n"


def query_lines(texts: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a file of queries, as BEIR has them."""
    return (json.dumps({"_id": query, "text": text}) + "\n" for query, text in texts.items())


FORMS: Final[Mapping[str, Callable[[Judgments], Iterable[str]]]] = {"trec": trec, "beir": beir, "jsonl": json_lines}
"""Forms to write, by name."""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not UTF-8") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from None
    # Not splitlines(): JSON may hold other line separators than "\n" as they are.
    return ((number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unreadable(f"{path}:{number}: not a JSON object")
    return found


def _text(path: Path, number: int, found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise Unreadable(f'{path}:{number}: "{name}" is to be a text')
    return value
