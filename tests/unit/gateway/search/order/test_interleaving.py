from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.search.order.interleaving import Coin, Placed, draft

rankings = st.lists(st.integers(0, 30), unique=True, max_size=25)
coins = st.integers(0, 2**64 - 1).map(lambda bits: lambda number: bool(bits >> number % 64 & 1))
Ranking = list[int]
Toss = Callable[[int], bool]

GOLDEN = [bit == "1" for bit in "1101011111001000"]
LATER = [True, True, True, False]


def drafted(first: Ranking, second: Ranking, coin: Toss) -> list[Placed]:
    return list(draft((first, second), coin, set()))


def teams(first: Ranking, second: Ranking, coin: Toss) -> list[tuple[int, int]]:
    """Ids with their teams."""
    return [((first, second)[one.arm][one.place], one.team) for one in drafted(first, second, coin)]


@given(rankings, coins)
def test_two_equal_rankings_make_that_ranking_and_nobody_earns_credit(ranking: Ranking, coin: Toss) -> None:
    assert teams(ranking, ranking, coin) == [(one, 0) for one in ranking]


@given(rankings, rankings, coins)
def test_every_result_of_either_arm_is_placed_once(first: Ranking, second: Ranking, coin: Toss) -> None:
    placed = [one for one, _ in teams(first, second, coin)]
    assert sorted(placed) == sorted({*first, *second})


@given(rankings, rankings, coins)
def test_every_pair_has_one_of_each_team_side_by_side(first: Ranking, second: Ranking, coin: Toss) -> None:
    credited = iter(enumerate(team for _, team in teams(first, second, coin)))
    for place, team in credited:
        if team:
            assert next(credited) == (place + 1, 3 - team)


@given(rankings, rankings, coins, st.integers(0, 50))
def test_a_longer_draft_starts_with_the_shorter_one_whose_rankings_were_cut(
    first: Ranking, second: Ranking, coin: Toss, count: int
) -> None:
    whole = list(islice(draft((first, second), coin, set()), count))
    assert list(islice(draft((first[:count], second[:count]), coin, set()), count)) == whole


@given(rankings, rankings, coins)
def test_swapping_arms_and_coin_swaps_the_teams(first: Ranking, second: Ranking, coin: Toss) -> None:
    swapped = teams(second, first, lambda number: not coin(number))
    assert [(one, team and 3 - team) for one, team in swapped] == teams(first, second, coin)


@given(rankings, rankings, coins)
def test_each_team_s_results_are_in_the_order_of_its_arm(first: Ranking, second: Ranking, coin: Toss) -> None:
    placed = teams(first, second, coin)
    for arm, ranking in enumerate((first, second)):
        own = [one for one, team in placed if team == arm + 1]
        assert own == [one for one in ranking if one in own]


@given(rankings, rankings, coins)
def test_what_an_arm_has_when_the_other_has_no_more_earns_no_credit(
    first: Ranking, second: Ranking, coin: Toss
) -> None:
    placed = teams(first, [], coin)
    assert placed == [(one, 0) for one in first]
    assert all(team == 0 for _, team in teams(first, second, coin)[2 * min(len(first), len(second)) :])


def test_over_users_each_team_goes_first_half_of_the_time() -> None:
    first, second = [1, 2, 3, 4], [5, 6, 7, 8]
    draw = random.Random(20)
    begins = [0, 0, 0, 0]
    users = 4000
    for _ in range(users):
        placed = teams(first, second, Coin("salt", f"user-{draw.getrandbits(64)}", b"how do pools work"))
        begins = [count + (placed[2 * pair][1] == 1) for pair, count in enumerate(begins)]
    # Five standard deviations of a fair coin.
    assert all(abs(count - users / 2) < 5 * (users / 4) ** 0.5 for count in begins)


def test_the_coin_never_changes() -> None:
    coin = Coin("salt", "ada", b"how do pools work")
    assert [coin(number) for number in range(16)] == GOLDEN
    assert [coin(number) for number in (255, 256, 511, 512)] == LATER
    assert [Coin("salt", "ada", b"why")(number) for number in range(16)] != GOLDEN
    assert [Coin("salt", "bob", b"how do pools work")(number) for number in range(16)] != GOLDEN


def test_a_user_who_cannot_be_written_as_utf_8_has_a_coin() -> None:
    assert Coin("salt", "\ud800", b"")(0) in (True, False)
