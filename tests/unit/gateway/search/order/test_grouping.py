from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.order.grouping import best_of_each


@given(ranked=st.lists(st.tuples(st.sampled_from("abc"), st.integers())))
def test_every_group_is_there_once_with_its_first_in_the_order_given(ranked: list[tuple[str, int]]) -> None:
    kept = best_of_each(ranked, lambda item: item[0])
    assert {group for group, _ in kept} == {group for group, _ in ranked}
    assert len(kept) == len({group for group, _ in kept})
    places = [next(place for place, item in enumerate(ranked) if item[0] == group) for group, _ in kept]
    assert [ranked[place] for place in places] == kept
    assert places == sorted(places)
