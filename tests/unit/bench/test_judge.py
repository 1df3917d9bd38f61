from __future__ import annotations

from bench.judge.__main__ import judging, of_kind, tasks_of
from bench.quality.beir import Dataset
from sluice_client import Document

ANIMALS = ("otter", "heron", "badger", "lynx")
DATASET = Dataset(
    "animals",
    "test",
    [
        *(Document(name, "", f"The {name} lives by the river.") for name in ANIMALS),
        *(Document(f"like-{name}", "", f"A {name}, a {name}, another {name}.") for name in ANIMALS),
    ],
    {name: f"the home of the {name}" for name in ANIMALS},
    {name: {name: 1} for name in ANIMALS},
)


def test_each_question_has_a_relevant_passage_one_alike_and_one_of_another_question() -> None:
    chosen = judging(DATASET, 4)
    for query, grades in chosen.people.grades.items():
        assert grades == {query: 1, chosen.alike[query]: 0, chosen.other[query]: 0}
        assert chosen.alike[query] == f"like-{query}"
        assert chosen.other[query] in set(ANIMALS) - {query}
    assert judging(DATASET, 2).people.grades == judging(DATASET, 2).people.grades


def test_tasks_are_grades_of_all_passages_or_the_relevant_one_beside_each_other() -> None:
    chosen = judging(DATASET, 4)
    assert sorted(len(task.passages) for task in tasks_of(chosen, "pointwise")) == [1] * 12
    pairs = tasks_of(chosen, "pairwise")
    assert len(pairs) == 8
    assert all(task.query in {passage.id for passage in task.passages} for task in pairs)


def test_kinds_of_passages_are_told_apart() -> None:
    chosen = judging(DATASET, 4)
    assert of_kind(chosen, chosen.alike).grades["otter"] == {"otter": 1, "like-otter": 0}
