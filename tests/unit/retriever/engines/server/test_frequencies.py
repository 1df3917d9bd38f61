import asyncio
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Unavailable
from services.retriever.engines.server.frequencies import Frequencies, FrequencyCount, Table
from services.retriever.lexical import SparseVector

terms = st.sets(st.integers(0, 30), max_size=8).map(sorted)


def counted(passages, total=0, at_once=3):
    count = FrequencyCount()
    for start in range(0, len(passages), at_once):
        count.add(passages[start : start + at_once])
    return count.table(total or len(passages))


@given(st.lists(terms, max_size=12))
def test_a_table_of_all_passages_weighs_each_term_by_its_idf(passages):
    frequencies = Counter(term for passage in passages for term in passage)
    total = sum(map(bool, passages))
    asked = SparseVector([0, 3, 7, 99], [1.0, 2.0, 1.0, 1.0])
    expected = [
        value * math.log(1 + (total - frequencies[term] + 0.5) / (frequencies[term] + 0.5))
        for term, value in zip(asked.indices, asked.values, strict=True)
    ]
    weighed = counted(passages).weigh(asked)
    assert weighed.indices == asked.indices
    assert weighed.values == pytest.approx(expected)


def test_a_sample_stands_for_all_passages():
    whole = counted([[1, 2], [1], [1, 3], [2]] * 25)
    sampled = counted([[1, 2], [1], [1, 3], [2]] * 5, total=100)
    asked = SparseVector([1, 2, 3], [1.0, 1.0, 1.0])
    assert sampled.weigh(asked).values == pytest.approx(whole.weigh(asked).values)
    [unseen] = sampled.weigh(SparseVector([9], [1.0])).values
    assert max(sampled.weigh(asked).values) < unseen < math.inf


def test_a_version_without_words_has_weights_all_the_same():
    assert counted([]).weigh(SparseVector([1], [1.0])).values == pytest.approx([math.log(2)])


class Counts:
    """Counts that tables ask for, each of a version of `size` passages with one term."""

    def __init__(self, size):
        self.size = size
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None

    async def __call__(self) -> Frequencies:
        self.asked += 1
        size = self.size
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return counted([[1]] * size, at_once=10_000)


async def test_a_small_version_is_counted_again_at_the_search_that_follows_a_change():
    counts, table = Counts(10), Table()
    assert (await table.current(counts)).total == 10
    await table.current(counts)
    assert counts.asked == 1
    counts.size = 11
    table.changed(1)
    assert (await table.current(counts)).total == 11


async def test_what_others_write_shows_in_the_size():
    counts, table = Counts(10), Table()
    await table.current(counts)
    table.seen(10)
    await table.current(counts)
    assert counts.asked == 1
    table.seen(12)
    await table.current(counts)
    assert counts.asked == 2


async def test_searches_at_once_wait_for_one_count():
    counts, table = Counts(10), Table()
    counts.gate.clear()
    searches = [asyncio.create_task(table.current(counts)) for _ in range(5)]
    await asyncio.sleep(0)
    counts.gate.set()
    assert {found.total for found in await asyncio.gather(*searches)} == {10}
    assert counts.asked == 1


async def test_a_large_version_is_counted_again_beside_the_searches_once_enough_has_changed():
    counts, table = Counts(10_000), Table()
    first = await table.current(counts)
    table.changed(100)
    assert await table.current(counts) is first
    assert counts.asked == 1
    counts.size = 10_400
    counts.gate.clear()
    table.changed(300)
    assert await table.current(counts) is first
    counts.gate.set()
    while (await table.current(counts)) is first:
        await asyncio.sleep(0)
    assert (await table.current(counts)).total == 10_400
    assert counts.asked == 2


async def test_an_old_table_is_made_again_whatever_has_changed():
    now = 0.0
    counts, table = Counts(10), Table(clock=lambda: now)
    first = await table.current(counts)
    now = 4000.0
    while (await table.current(counts)) is first:
        await asyncio.sleep(0)
    assert counts.asked == 2


async def test_a_count_that_fails_is_told_and_made_again():
    counts, table = Counts(10), Table()
    counts.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await table.current(counts)
    counts.error = None
    assert (await table.current(counts)).total == 10


async def test_a_search_that_is_given_up_leaves_the_count_to_the_next_one():
    counts, table = Counts(10), Table()
    counts.gate.clear()
    search = asyncio.create_task(table.current(counts))
    await asyncio.sleep(0)
    search.cancel()
    await asyncio.gather(search, return_exceptions=True)
    counts.gate.set()
    assert (await table.current(counts)).total == 10
    assert counts.asked == 1
    table.close()
