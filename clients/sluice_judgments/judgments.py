"""Lists of judgments, and how several become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Judgments:
    """Grades of documents by query, and the texts of queries as far as they are known."""

    grades: Mapping[str, Mapping[str, int]]
    """0 is not relevant; a higher grade is more so."""
    texts: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.grades.values()))

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        return ((query, document, grade) for query, found in self.grades.items() for document, grade in found.items())


MERGES: Mapping[str, Callable[[Sequence[int]], int]] = {
    "first": lambda grades: grades[0],
    "highest": max,
    "mean": lambda grades: round(fmean(grades)),
}
"""Ways to make one grade of those that several lists give to a document."""


def merged(lists: Sequence[Judgments], merge: str) -> Judgments:
    """Make one list of several, by a way of `MERGES`; `first` takes the grade of the list that comes first."""
    found: dict[str, dict[str, list[int]]] = {}
    texts: dict[str, str] = {}
    for one in lists:
        for query, document, grade in one:
            found.setdefault(query, {}).setdefault(document, []).append(grade)
        texts = {**one.texts, **texts}
    rule = MERGES[merge]
    return Judgments(
        {query: {name: rule(grades) for name, grades in documents.items()} for query, documents in found.items()}, texts
    )
