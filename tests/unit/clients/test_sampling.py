from __future__ import annotations

from collections import Counter

from sluice_cli.feedback.sampling import asked_counts, draw
from sluice_judgments.clicks import Served


def test_later_pages_of_an_answer_are_no_further_questions() -> None:
    pages = [Served("p", ["a"], ()), Served("p", ["b"], (), first_position=11), Served("q", ["a"], ())]
    assert asked_counts(pages) == {"p": 1, "q": 1}


def test_questions_are_drawn_once_each_and_the_same_with_the_same_seed() -> None:
    counts = {f"q{number}": number + 1 for number in range(20)}
    for by_frequency in (True, False):
        drawn = draw(counts, 8, by_frequency=by_frequency, seed=3)
        assert len(set(drawn)) == 8
        assert drawn == draw(counts, 8, by_frequency=by_frequency, seed=3)
        assert sorted(draw(counts, 100, by_frequency=by_frequency, seed=3)) == sorted(counts)


def test_what_was_asked_more_often_is_drawn_more_often() -> None:
    counts = {"often": 9, "seldom": 1}
    first = Counter(draw(counts, 1, by_frequency=True, seed=seed)[0] for seed in range(2000))
    assert 0.87 < first["often"] / 2000 < 0.93
    alike = Counter(draw(counts, 1, by_frequency=False, seed=seed)[0] for seed in range(2000))
    assert 0.45 < alike["often"] / 2000 < 0.55
