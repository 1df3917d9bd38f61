"""Properties of the scheduler that hold for any calls and limits."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.inference.scheduling import (
    Lane,
)
from tests.unit.inference.scheduling.rig import BULK, INTERACTIVE, PATIENCE, gathered, length_of, rig, text

CALLERS = st.sampled_from(["ann", "bob", "cy"])
NAMES = st.integers(0, 40)
LENGTHS = [1 + 7 * number % 60 for number in range(41)]
TEXTS = NAMES.map(lambda number: text(LENGTHS[number], number))


@dataclass(frozen=True)
class Call:
    texts: list[str]
    lane: Lane
    caller: str
    given_up: bool
    late: bool


CALLS = st.lists(
    st.builds(
        Call,
        texts=st.lists(TEXTS, min_size=1, max_size=8),
        lane=st.sampled_from(Lane),
        caller=CALLERS,
        given_up=st.booleans(),
        late=st.booleans(),
    ),
    max_size=12,
)
LIMITS = st.fixed_dictionaries(
    {
        "batch_tokens": st.integers(1, 200),
        "padding_tokens": st.integers(0, 40),
        "run_ahead_tokens": st.integers(0, 300),
        "queued_tokens": st.sampled_from([150, 10_000]),
        "cache_entries": st.sampled_from([0, 3, 1000]),
        "workers": st.sampled_from([1, 3]),
        "express": st.booleans(),
    }
)
threaded = settings(max_examples=40)


@threaded
@given(calls=CALLS, limits=LIMITS, poison=st.sets(TEXTS, max_size=2))
def test_every_call_gets_its_own_answer_or_its_own_error(calls: list[Call], limits: Any, poison: set[str]) -> None:
    async def scenario() -> None:
        async with rig(**limits) as h:
            h.model.poison = poison
            plugs = await h.occupy(limits["workers"])
            tasks = [
                await h.queue(*call.texts, lane=call.lane, caller=call.caller, deadline=1.0 if call.late else None)
                for call in calls
            ]
            refused = {task for task in tasks if task.done()}
            for call, task in zip(calls, tasks, strict=True):
                if call.given_up:
                    task.cancel()
            await asyncio.sleep(0)
            h.model.clock.now = 1.0
            h.model.open()
            outcomes = await gathered(*tasks)
            await gathered(*plugs)

            wanted: set[str] = set()
            for call, task, outcome in zip(calls, tasks, outcomes, strict=True):
                if task in refused:
                    assert isinstance(outcome, ResourceExhausted)
                elif call.given_up:
                    assert isinstance(outcome, asyncio.CancelledError)
                elif not (call.late and isinstance(outcome, DeadlineExceeded)):
                    # Late calls may still be answered, by the work of others.
                    wanted.update([] if call.late else call.texts)
                    if culprits := poison.intersection(call.texts):
                        assert isinstance(outcome, InvalidArgument)
                        assert outcome.field in {
                            f"rows[{index}]" for index, each in enumerate(call.texts) if each in culprits
                        }
                    else:
                        assert outcome == [content.upper() for content in call.texts]
            # After a batch without a result, a row that was computed before shows whether the model is at fault.
            computed = [content for content in h.model.computed if "plug" not in content]
            assert wanted.issuperset(computed)
            if not poison:
                assert sorted(wanted) == sorted(computed)  # each exactly once
            assert max(h.record.most_tokens.values(), default=0) <= limits["queued_tokens"]
            for batch in h.model.batches:
                lengths = [length_of(content) for content in batch]
                padded = len(lengths) * max(lengths)
                assert len(lengths) == 1 or padded <= limits["batch_tokens"]
                assert padded - sum(lengths) <= limits["padding_tokens"]
            h.assert_nothing_is_left()

    asyncio.run(scenario())


@threaded
@given(rows=st.integers(1, 40), poison=st.sets(st.integers(0, 39)))
def test_bisection_fails_exactly_the_rows_at_fault(rows: int, poison: set[int]) -> None:
    async def scenario() -> None:
        async with rig() as h:
            h.model.poison = {text(3, number) for number in poison}
            plugs = await h.occupy()
            tasks = [await h.queue(text(3, number)) for number in range(rows)]
            h.model.open()
            outcomes = await gathered(*tasks)
            failed = {number for number, outcome in enumerate(outcomes) if isinstance(outcome, InvalidArgument)}
            assert failed == poison.intersection(range(rows))
            await gathered(*plugs)
            h.assert_nothing_is_left()

    asyncio.run(scenario())


LONG_QUEUES = st.lists(st.integers(1, 60), min_size=60, max_size=120)


@threaded
@given(queues=st.lists(LONG_QUEUES, min_size=2, max_size=4), run_ahead=st.sampled_from([0, 100, 400]))
def test_callers_with_work_queued_get_the_same_number_of_tokens(queues: list[list[int]], run_ahead: int) -> None:
    async def scenario() -> None:
        async with rig(batch_tokens=120, run_ahead_tokens=run_ahead) as h:
            plugs = await h.occupy()
            tasks = [
                await h.queue(*(text(length, f"{caller} {i}") for i, length in enumerate(lengths)), caller=str(caller))
                for caller, lengths in enumerate(queues)
            ]
            h.model.open()
            await gathered(*plugs, *tasks)
            got = Counter({str(caller): 0 for caller in range(len(queues))})
            left = Counter({str(caller): len(lengths) for caller, lengths in enumerate(queues)})
            for batch in h.model.batches[1:]:
                if min(left.values()) == 0:
                    break
                assert max(got.values()) - min(got.values()) <= run_ahead + 60
                for content in batch:
                    caller = content.split(":")[1].split()[0]
                    got[caller] += length_of(content)
                    left[caller] -= 1

    asyncio.run(scenario())


@threaded
@given(
    people=LONG_QUEUES, job=LONG_QUEUES, share=st.sampled_from([0.1, 0.2, 0.5]), rate=st.sampled_from([None, 4000.0])
)
def test_lanes_with_work_queued_get_their_shares(
    people: list[int], job: list[int], share: float, rate: float | None
) -> None:
    async def scenario() -> None:
        async with rig(batch_tokens=200, bulk_share=share, rate=rate) as h:
            h.model.seconds_per_token = 1 / 4000
            plugs = await h.occupy()
            tasks = [
                await h.queue(*(text(length, f"job {i}") for i, length in enumerate(job)), lane=BULK),
                await h.queue(*(text(length, f"person {i}") for i, length in enumerate(people))),
            ]
            h.model.open()
            await gathered(*plugs, *tasks)
            left = {INTERACTIVE: len(people), BULK: len(job)}
            used = {INTERACTIVE: 0.0, BULK: 0.0}
            shares = {INTERACTIVE: 1 - share, BULK: share}
            for report in h.record.reports[1:]:
                if min(left.values()) == 0:
                    break
                # One batch of either lane is as far as they can drift apart; the plug had one token of the first.
                assert abs(used[INTERACTIVE] - used[BULK]) <= 200 / min(shares.values()) + 2
                used[report.lane] += report.padded_tokens / shares[report.lane]
                left[report.lane] -= report.rows

    asyncio.run(scenario())


@threaded
@given(
    flood=st.lists(st.integers(1, 40), min_size=50, max_size=100),
    lights=st.lists(st.integers(1, 20), min_size=1, max_size=5),
)
def test_new_callers_do_not_starve_one_that_waits(flood: list[int], lights: list[int]) -> None:
    async def scenario() -> None:
        async with rig(batch_tokens=1, padding_tokens=0) as h:
            await h.occupy()
            patient = await h.queue(
                *(text(length, f"patient {i}") for i, length in enumerate(lights)), caller="patient"
            )
            newcomers = iter(enumerate(itertools.islice(itertools.cycle(flood), 1000)))
            loop = asyncio.get_running_loop()
            arrived: list[asyncio.Task[list[str]]] = []

            async def arrive() -> None:
                number, length = next(newcomers)
                arrived.append(await h.queue(text(length, f"new {number}"), caller=f"new {number}"))

            def let_one_arrive() -> None:
                if not patient.done():
                    asyncio.run_coroutine_threadsafe(arrive(), loop).result(PATIENCE)

            h.model.before = let_one_arrive
            for _ in range(3):
                await arrive()
            h.model.open()
            assert len((await gathered(patient))[0]) == len(lights)
            await gathered(*arrived)
            h.assert_nothing_is_left()

    asyncio.run(scenario())
