from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.satisfaction import expected_reciprocal_rank, satisfaction


def test_a_sure_first_hit_is_all_that_a_reader_wants() -> None:
    assert expected_reciprocal_rank([1.0, 0.0, 1.0]) == 1.0
    assert expected_reciprocal_rank([0.0, 1.0]) == 0.5
    assert expected_reciprocal_rank([0.5, 0.5]) == 0.5 + 0.5 * 0.5 / 2
    assert expected_reciprocal_rank([]) == 0.0


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_better_passages_further_up_are_never_worse(chances: list[float]) -> None:
    best = expected_reciprocal_rank(sorted(chances, reverse=True))
    assert expected_reciprocal_rank(chances) <= best + 1e-12
    assert 0 <= best <= 1 + 1e-12


@given(st.floats(-1e6, 1e6))
def test_every_logit_is_a_chance(logit: float) -> None:
    assert 0 <= satisfaction(logit) <= 1
    assert satisfaction(logit) + satisfaction(-logit) == pytest.approx(1)
