from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_judgments.clicks import Counts, Served, clicks_over_expected, position_based

EXAMINATION = (1.0, 0.7, 0.5, 0.35, 0.2)


def simulated(attractiveness: Sequence[float], pages: int, seed: int = 0) -> list[Served]:
    """Pages of a query whose order is drawn anew for each, with clicks of people who look less and less."""
    chance = random.Random(seed)
    names = [f"d{place}" for place in range(len(attractiveness))]
    served = []
    for _ in range(pages):
        order = chance.sample(names, len(names))
        clicked = {
            name
            for name, looked_at in zip(order, EXAMINATION, strict=True)
            if chance.random() < looked_at * attractiveness[int(name[1:])]
        }
        served.append(Served("q", order, clicked))
    return served


def test_the_position_based_model_finds_attractiveness_and_examination_again() -> None:
    attractiveness = (0.8, 0.5, 0.3, 0.1, 0.05)
    found = position_based(Counts(simulated(attractiveness, 20_000)))
    assert {one.document: one.value for one in found.attractions} == pytest.approx(
        {f"d{place}": value for place, value in enumerate(attractiveness)}, abs=0.03
    )
    assert found.positions == pytest.approx(dict(enumerate(EXAMINATION, start=1)), abs=0.05)


def test_clicks_over_expected_clicks_find_the_order_again() -> None:
    found = clicks_over_expected(Counts(simulated((0.8, 0.5, 0.3, 0.1, 0.05), 5000)))
    best_first = sorted(found.attractions, key=lambda one: -one.value)
    assert [one.document for one in best_first] == ["d0", "d1", "d2", "d3", "d4"]


def test_a_document_that_always_stood_low_is_not_taken_for_a_bad_one() -> None:
    # d0 and d1 are as attractive, and d1 never stands above the third place. d2 to d9 show how places are looked at.
    chance = random.Random(3)
    served = []
    for _ in range(20_000):
        order = chance.sample([f"d{place}" for place in range(2, 10)], 5)
        order[chance.choice((0, 1))], order[chance.choice((2, 3))] = "d0", "d1"
        clicked = {
            name
            for name, seen in zip(order, EXAMINATION, strict=True)
            if chance.random() < seen * (0.6 if name < "d2" else 0.2)
        }
        served.append(Served("q", order, clicked))
    raw = {name: sum(name in one.clicked for one in served) / len(served) for name in ("d0", "d1")}
    assert raw["d0"] > 1.5 * raw["d1"]
    for estimated in (position_based(Counts(served)), clicks_over_expected(Counts(served))):
        values = {one.document: one.value for one in estimated.attractions}
        assert values["d1"] == pytest.approx(values["d0"], rel=0.15)


def test_documents_that_were_shown_too_seldom_have_no_estimate() -> None:
    pages = [Served("q", ["a", "b"], {"a"})] * 9 + [Served("q", ["a", "c"], set())]
    for estimate in (position_based, clicks_over_expected):
        found = estimate(Counts(pages), 5)
        assert [(one.document, one.impressions, one.clicks) for one in found.attractions] == [("a", 10, 9), ("b", 9, 0)]


def test_a_later_page_counts_at_its_own_positions() -> None:
    counts = Counts([Served("q", ["a", "b"], {"a"}), Served("q", ["c"], {"c"}, first_position=3)])
    assert counts.positions == [1, 2, 3]


@given(
    st.lists(
        st.builds(
            lambda query, documents, clicked: Served(
                query, documents, {documents[place % len(documents)] for place in clicked}
            ),
            st.sampled_from("pq"),
            st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        max_size=30,
    )
)
def test_estimates_are_probabilities_whatever_was_clicked(pages: list[Served]) -> None:
    for estimate in (position_based, clicks_over_expected):
        found = estimate(Counts(pages))
        assert {(one.query, one.document) for one in found.attractions} == {
            (page.query, document) for page in pages for document in page.documents
        }
        assert all(0 <= one.value <= 1 for one in found.attractions)
        assert all(one.value == 0 or estimate is position_based for one in found.attractions if one.clicks == 0)
