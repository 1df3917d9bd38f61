from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.chassis.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.inference.models.info import ModelInfo
from services.inference.scheduling import Lane, SchedulerLimits, SchedulerObserver
from services.inference.served_model import Computed, ServedModel, least_tokens

MODEL = ModelInfo(
    name="doubling",
    fingerprint="doubling",
    dimension=1,
    max_token_count=256,
    backend="none",
    precision="fp32",
    device="cpu",
)


@dataclass(frozen=True)
class Row:
    """A text of which every character is a token."""

    text: str
    truncated: bool = False

    @property
    def key(self) -> str:
        return self.text

    @property
    def token_count(self) -> int:
        return len(self.text)


class Doubling:
    """An engine that doubles token counts, and remembers what it was given."""

    model = MODEL

    def __init__(self) -> None:
        self.computed: list[Row] = []
        self.warm_for = 0

    def width(self, token_count: int) -> int:
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        self.warm_for = batch_tokens

    def compute(self, rows: Sequence[Row]) -> list[int]:
        self.computed += rows
        return [2 * row.token_count for row in rows]


def tokenize(texts: Sequence[str]) -> list[Row]:
    return [Row(text, truncated=len(text) > 3) for text in texts]


def served(engine: Doubling) -> ServedModel[Row, int]:
    return ServedModel(engine, engine.compute, tokenize, SchedulerLimits(), SchedulerObserver(), row_field="texts")


async def run(model: ServedModel[Row, int], *texts: str) -> Computed[Row, int]:
    return await model.run(texts, tokenize, lane=Lane.BULK, caller="me", deadline=None)


async def test_rows_come_back_with_their_results_in_order() -> None:
    async with served(Doubling()) as model:
        done = await run(model, "abc", "a", "abcd")
    assert ([row.text for row in done.rows], done.results) == (["abc", "a", "abcd"], [6, 2, 8])
    assert done.truncated_count == 1
    assert done.seconds == done.tokenize_seconds + done.compute_seconds


async def test_more_texts_than_the_queue_has_room_for_are_done_in_portions() -> None:
    texts = [f"{place:04}" * 64 for place in range(1000)]  # each fills the window
    limits = SchedulerLimits(queued_tokens=64 * MODEL.max_token_count)
    engine = Doubling()
    async with ServedModel(engine, engine.compute, tokenize, limits, SchedulerObserver(), row_field="texts") as model:
        done = await run(model, *texts)
    assert [row.text for row in done.rows] == texts
    assert list(done.results) == [512] * 1000
    assert done.truncated_count == 1000


class Late(Doubling):
    """An engine that computes some batches at once, and the next one only when it is released."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.release = threading.Event()
        self._left = batches

    def compute(self, rows: Sequence[Row]) -> list[int]:
        if not self._left:
            self.release.wait()
        self._left -= 1
        return super().compute(rows)


@pytest.mark.parametrize("batches", [1, 3, 70])
async def test_a_partial_call_has_the_rows_that_are_done_by_the_deadline_whatever_its_portions(batches: int) -> None:
    texts = [f"{place:04}" * 64 for place in range(100)]
    limits = SchedulerLimits(queued_tokens=64 * MODEL.max_token_count, batch_tokens=MODEL.max_token_count)
    engine = Late(batches)
    async with ServedModel(engine, engine.compute, tokenize, limits, SchedulerObserver(), row_field="texts") as model:
        done = await model.run(
            texts, tokenize, lane=Lane.BULK, caller="me", deadline=time.monotonic() + 0.5, partial=True
        )
        engine.release.set()
    assert [row.text for row in done.rows] == texts[:batches]
    assert done.results == [2 * MODEL.max_token_count] * batches
    assert (done.truncated_count, done.token_count) == (batches, batches * MODEL.max_token_count)


async def test_a_partial_call_of_which_no_row_is_done_by_the_deadline_fails() -> None:
    engine = Late(0)
    async with served(engine) as model:
        with pytest.raises(DeadlineExceeded):
            await model.run(
                ["ab"], tokenize, lane=Lane.BULK, caller="me", deadline=time.monotonic() + 0.05, partial=True
            )
        engine.release.set()


async def test_a_row_that_cannot_be_computed_is_named_by_its_place_in_the_whole_call() -> None:
    def compute(rows: Sequence[Row]) -> list[int]:
        if any(row.text == "bad" for row in rows):
            raise ValueError("no such token")
        return [row.token_count for row in rows]

    texts = [f"text {place}" for place in range(100)]
    texts[77] = "bad"
    limits = SchedulerLimits(queued_tokens=16 * MODEL.max_token_count)
    async with ServedModel(Doubling(), compute, tokenize, limits, SchedulerObserver(), row_field="texts") as model:
        with pytest.raises(InvalidArgument) as failed:
            await run(model, *texts)
    assert failed.value.field == "texts[77]"


async def test_an_error_of_the_tokenizer_is_raised_to_the_caller() -> None:
    def refuse(texts: Sequence[str]) -> list[Row]:
        raise ValueError("no tokens in here")

    async with served(Doubling()) as model:
        with pytest.raises(ValueError, match="no tokens in here"):
            await model.run(["text"], refuse, lane=Lane.BULK, caller="me", deadline=None)


async def test_a_text_that_alone_cannot_be_tokenized_is_named_and_logged_without_its_text() -> None:
    def picky(texts: Sequence[str]) -> list[Row]:
        if "bad" in texts:
            raise ValueError("cannot tokenize 'bad'")
        return tokenize(texts)

    async with served(Doubling()) as model:
        with capture_logs() as lines, pytest.raises(InvalidArgument) as refused:
            await model.run(["a", "b", "bad"], picky, lane=Lane.BULK, caller="me", deadline=None)
    assert (refused.value.field, refused.value.reason) == ("texts[2]", "ROW_FAILED")
    assert [(line["row"], line["cause"]) for line in lines] == [("texts[2]", "ValueError")]


class Picky(Doubling):
    """An engine with an input that it cannot compute, or with none that it can."""

    broken = False

    def compute(self, rows: Sequence[Row]) -> list[int]:
        if self.broken or Row("bad") in rows:
            raise IndexError("index 30522 is out of bounds")
        return super().compute(rows)


async def test_an_input_that_the_model_cannot_compute_is_named_and_harms_no_other() -> None:
    async with served(Picky()) as model:
        await run(model, "abc")
        for _ in range(10):
            with pytest.raises(InvalidArgument) as refused:
                await run(model, "a", "bad", "b")
            assert (refused.value.field, refused.value.reason) == ("texts[1]", "ROW_FAILED")
        assert (await run(model, "ab")).results == [4]
        assert model.problem is None
        assert not model.died.is_set()


async def test_an_engine_that_can_compute_nothing_any_more_is_a_problem_and_ends_the_stage() -> None:
    engine = Picky()
    async with served(engine) as model:
        await run(model, "abc")
        engine.broken = True
        with capture_logs() as lines:
            with pytest.raises(Unavailable):
                await run(model, "a")
            await asyncio.wait_for(model.died.wait(), 10)
        assert model.problem == "the model's worker has died"
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["the model cannot compute any more"]


async def test_a_call_that_was_cancelled_while_it_was_tokenized_is_never_computed() -> None:
    tokenizing, release = threading.Event(), threading.Event()
    engine = Doubling()

    def slowly(texts: Sequence[str]) -> list[Row]:
        tokenizing.set()
        release.wait()
        return tokenize(texts)

    async with served(engine) as model:
        call = asyncio.create_task(model.run(["gone"], slowly, lane=Lane.BULK, caller="me", deadline=None))
        await asyncio.to_thread(tokenizing.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        await run(model, "kept")
    assert engine.computed == [Row("kept", truncated=True)]


async def test_the_warm_up_prepares_the_engine_and_computes_short_and_long_rows() -> None:
    engine = Doubling()
    async with served(engine) as model:
        await model.warm_up()
    lengths = [row.token_count for row in engine.computed]
    assert engine.warm_for == SchedulerLimits().batch_tokens
    assert min(lengths) < 20
    assert max(lengths) > 1000


async def test_a_worker_that_dies_is_a_problem_for_good() -> None:
    def die(rows: Sequence[Row]) -> list[int]:
        raise SystemExit(1)

    async with ServedModel(
        Doubling(), die, tokenize, SchedulerLimits(), SchedulerObserver(), row_field="texts"
    ) as model:
        assert model.problem is None
        with pytest.raises(Exception, match="a worker died"):
            await run(model, "text")
        await model.died.wait()
        assert model.problem == "the model's worker has died"


@given(st.lists(st.lists(st.text("abcdef", min_size=1), min_size=1, max_size=30).map(" ".join), min_size=2))
def test_texts_never_have_fewer_tokens_than_expected(texts: list[str]) -> None:
    words = sum(len(text.split()) for text in texts)
    assert least_tokens(texts, most=1000) <= words


def test_tokens_that_the_model_would_cut_off_are_not_expected() -> None:
    assert least_tokens(["a " * 500, "b " * 500], most=256) == 512


def test_a_single_text_is_always_tokenized_first() -> None:
    assert least_tokens(["many words of a single text"], most=256) == 0
