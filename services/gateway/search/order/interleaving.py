"""Interleaving of two rankings into one: the team draft with competitive pairs.

In each round both arms offer their best result that is not placed yet. If it is the same one, it is placed for no
team: neither arm has earned a click on it. Else both are placed side by side, each for its team, and a coin says which
is first. When one arm has no more, the rest of the other follows for no team. So each click on a team's result has a
rival just before or after it, and two equal rankings make that same ranking.

The draft is Radlinski's ("How does clickthrough data reflect retrieval quality?", 2008); the pairs are Airbnb's
(arXiv:2508.00751), who let only pairs earn credit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from services.experiment.bucketing import encoded

ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
ItemT = TypeVar("ItemT")

_ROUNDS_A_HASH = 256
_BITS_A_BYTE = 8


class Placed(NamedTuple):
    """A place of the draft."""

    arm: int
    """The arm whose result it is: 0 or 1."""
    place: int
    """Its place in the ranking of that arm, from 0."""
    team: int = 0
    """1 or 2 for a result of a pair; 0 for one that earns no credit."""


class Taken(Protocol[ItemT_contra]):
    """The results that are placed: a set, or something that knows more kinds of repetition."""

    def __contains__(self, item: ItemT_contra, /) -> bool:
        """True if it is placed, or another that stands for it."""

    def add(self, item: ItemT_contra, /) -> None:
        """Place it."""


def draft(
    rankings: tuple[Sequence[ItemT], Sequence[ItemT]], first_begins: Callable[[int], bool], taken: Taken[ItemT]
) -> Iterator[Placed]:
    """Place the results of two rankings, best first.

    `first_begins` is the coin: true if the first arm goes first in a round, from 0. To place n results, n of each
    ranking are enough: more of them change nothing before.
    """
    first, second = rankings
    one = two = rounds = 0
    while True:
        while one < len(first) and first[one] in taken:
            one += 1
        while two < len(second) and second[two] in taken:
            two += 1
        if one == len(first) and two == len(second):
            return
        if two == len(second):
            taken.add(first[one])
            yield Placed(0, one)
            continue
        if one == len(first):
            taken.add(second[two])
            yield Placed(1, two)
            continue
        taken.add(first[one])
        if second[two] in taken:
            yield Placed(0, one)
            continue
        taken.add(second[two])
        pair = (Placed(0, one, 1), Placed(1, two, 2))
        yield from pair if first_begins(rounds) else pair[::-1]
        rounds += 1


class Coin:
    """The coin of one answer. Each user sees the same order of the same question again, and other users others."""

    def __init__(self, salt: str, user: str, asked: bytes) -> None:
        """Take the experiment's salt, the user, and the question."""
        self._seed = hashlib.sha256(encoded(f"{salt}\x1f{user}\x1f") + asked).digest()

    def __call__(self, number: int) -> bool:
        """True if the first arm goes first in this round: bit `number` of SHA-256(salt, user, question).

        Every 256 rounds take another hash, of the first one and their number.
        """
        which, bit = divmod(number, _ROUNDS_A_HASH)
        bits = self._seed if not which else hashlib.sha256(self._seed + which.to_bytes(4, "big")).digest()
        return bool(bits[bit // _BITS_A_BYTE] >> bit % _BITS_A_BYTE & 1)
