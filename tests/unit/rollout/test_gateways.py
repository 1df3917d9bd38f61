from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.rollout.gateways import FORGOTTEN_SECONDS, Gateway, Gateways


def test_a_gateway_is_live_until_it_was_silent_for_too_long() -> None:
    gateways = Gateways(5.0, 2.0)
    gateways.seen("g1", 100.0)
    assert [gateway.name for gateway in gateways.live(105.0)] == ["g1"]
    assert gateways.live(105.1) == []


@given(heard=st.floats(0, 1e6), lease=st.floats(0.2, 10), more=st.floats(1, 10), silent=st.floats(0, 200))
def test_a_gateway_that_no_longer_counts_holds_no_lease(heard: float, lease: float, more: float, silent: float) -> None:
    live = 2 * lease * more
    gateways = Gateways(live, lease)
    gateways.seen("g1", heard)
    last_renewal = heard + min(silent, live - lease)
    if not gateways.renewable("g1", last_renewal):
        return  # rounding: it was heard of a moment too long ago, which is the safe side
    now = last_renewal + lease
    assert not gateways.renewable("g1", heard + live - lease + 0.01)
    assert now <= heard + live + 1e-6


def test_a_version_is_served_when_no_live_gateway_is_behind() -> None:
    gateways = Gateways(5.0, 2.0)
    gateways.acknowledged("g1", 3, 100.0)
    gateways.acknowledged("g2", 2, 100.0)
    assert [gateway.name for gateway in gateways.behind(3, 101.0)] == ["g2"]
    gateways.acknowledged("g2", 4, 101.0)
    assert gateways.behind(3, 101.0) == []


def test_those_that_a_process_before_knew_may_still_be_there() -> None:
    gateways = Gateways(5.0, 2.0)
    gateways.load([Gateway("g1", 3, 10.0)], now=1000.0)
    assert [gateway.name for gateway in gateways.behind(4, 1004.0)] == ["g1"]
    assert gateways.behind(4, 1006.0) == []


def test_a_gateway_is_forgotten_after_an_hour() -> None:
    gateways = Gateways(5.0, 2.0)
    gateways.seen("g1", 0.0)
    assert gateways.forget(FORGOTTEN_SECONDS) == []
    assert gateways.forget(FORGOTTEN_SECONDS + 1) == ["g1"]
    assert "g1" not in gateways


def test_a_clock_that_was_ahead_and_is_set_back_keeps_no_dead_gateway_live() -> None:
    gateways = Gateways(5.0, 2.0)
    gateways.seen("g1", 7300.0)
    assert gateways.live(100.0) == []
    assert not gateways.renewable("g1", 100.0)
    gateways.seen("g1", 101.0)
    assert [gateway.name for gateway in gateways.live(102.0)] == ["g1"]
    gateways.seen("g2", 3 * FORGOTTEN_SECONDS)
    assert gateways.forget(103.0) == ["g2"]
