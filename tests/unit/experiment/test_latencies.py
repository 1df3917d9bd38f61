from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.experiment.latencies import EDGES, latency_bucket


def test_the_edges_are_those_that_gateways_and_the_control_plane_agreed_on() -> None:
    assert len(EDGES) == 110
    assert EDGES[0] == 0.001
    assert EDGES[-1] == pytest.approx(32.494, abs=0.001)
    assert all(1.099 < after / before < 1.101 for before, after in pairwise(EDGES))


@given(st.floats(0, 100))
def test_a_latency_lies_above_the_edge_before_and_not_above_its_own(seconds: float) -> None:
    place = latency_bucket(seconds)
    assert place == 0 or seconds > EDGES[place - 1]
    assert place == len(EDGES) or seconds <= EDGES[place]
