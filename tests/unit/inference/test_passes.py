from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.passes import Inference, least_tokens
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver


@dataclass(frozen=True)
class Row:
    token_count: int


class Model:
    """Doubles what it gets, and remembers it."""

    def __init__(self) -> None:
        self.computed: list[Row] = []

    def __call__(self, rows: Sequence[Row]) -> list[int]:
        self.computed += rows
        return [2 * row.token_count for row in rows]


def inference_of(model: Model, width_of: Callable[[int], int] = int) -> Inference[Row, int]:
    return Inference(model, lambda row: row.token_count, width_of, SchedulerLimits(), SchedulerObserver())


async def test_rows_come_back_with_their_results_in_order() -> None:
    async with inference_of(Model()) as inference:
        done = await inference.run(
            lambda: [Row(3), Row(1), Row(2)], least_tokens=0, lane=Lane.BULK, caller="me", deadline=None
        )
    assert (done.rows, done.results) == ([Row(3), Row(1), Row(2)], [6, 2, 4])


async def test_what_goes_wrong_in_tokenizing_is_raised_to_the_caller() -> None:
    def tokenize() -> list[Row]:
        raise ValueError("no tokens in here")

    async with inference_of(Model()) as inference:
        with pytest.raises(ValueError, match="no tokens in here"):
            await inference.run(tokenize, least_tokens=0, lane=Lane.BULK, caller="me", deadline=None)


async def test_what_was_cancelled_while_it_was_tokenized_is_never_computed() -> None:
    tokenizing, release = threading.Event(), threading.Event()
    model = Model()

    def tokenize() -> list[Row]:
        tokenizing.set()
        release.wait()
        return [Row(1)]

    async with inference_of(model) as inference:
        call = asyncio.ensure_future(
            inference.run(tokenize, least_tokens=0, lane=Lane.BULK, caller="me", deadline=None)
        )
        await asyncio.to_thread(tokenizing.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        await inference.run(lambda: [Row(5)], least_tokens=0, lane=Lane.BULK, caller="me", deadline=None)
    assert model.computed == [Row(5)]


@given(st.lists(st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=30).map(" ".join), min_size=2))
def test_a_text_never_has_fewer_tokens_than_are_foreseen(texts: list[str]) -> None:
    words = sum(len(text.split()) for text in texts)
    assert least_tokens(texts, most=1000) <= words


def test_what_the_model_would_cut_off_is_not_foreseen() -> None:
    assert least_tokens(["a " * 500, "b " * 500], most=256) == 512


def test_a_single_text_is_always_tokenized_first() -> None:
    assert least_tokens(["many words of a single text"], most=256) == 0
