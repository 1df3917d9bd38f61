"""Answers written by a language model: asked within bounds, checked before they are returned.

A model is not trusted: its JSON is checked against the schema that it was given, and each quote against the passage
that it names. It is asked once. What it took is counted, of failed tries as well.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from services.chassis.breaker import Breaker
from services.chassis.errors import DeadlineExceeded, ResourceExhausted, SluiceError
from services.chassis.timing import remaining
from services.reasoner.answers import Answer, Citation, Fallback, Method, Passage, Task, Usage
from services.reasoner.citations import Folded
from services.reasoner.language_model import Finished, LanguageModel
from services.reasoner.prompting import Made, Prices, Room, TooSmall, alive, make_prompt, room_of, tokens_of
from services.reasoner.reasoning import NotWritten
from services.reasoner.schemas import conforms

# Answers that wait for a place, for each place; and the share of the time that they may wait.
_WAITING = 4
_WAITING_SHARE = 0.5
# Characters that a model may write for each token that it was given: a server that ignores the bound is cut off.
_CHARACTERS_A_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one answer of a model, and of the answers that it makes at once."""

    room: Room
    prices: Prices
    seconds: float
    concurrency: int


class Places:
    """Places for calls of a model. Who finds too many waiting, or waits too long, does without."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._most_waiting = count * _WAITING
        self.waiting = 0

    @asynccontextmanager
    async def taken(self, deadline: float) -> AsyncIterator[None]:
        """Hold a place. Raises NotWritten."""
        if self.waiting >= self._most_waiting:
            raise NotWritten(Fallback.BUSY, "too many answers wait for the language model")
        self.waiting += 1
        try:
            async with asyncio.timeout(remaining(deadline) * _WAITING_SHARE):
                await self._free.acquire()
        except TimeoutError:
            raise NotWritten(Fallback.BUSY, "the language model was busy with other answers") from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()


class LanguageModelWriter:
    """Lets a language model write answers; see `services.reasoner.reasoning.Writer`."""

    def __init__(
        self,
        model: LanguageModel,
        limits: Limits,
        breaker: Breaker,
        on_abandoned: Callable[[Usage], None] = lambda _usage: None,
    ) -> None:
        """`on_abandoned` takes what was used for an answer that nobody waits for any more."""
        self._model = model
        self._limits = limits
        self._breaker = breaker
        self._on_abandoned = on_abandoned
        self.places = Places(limits.concurrency)

    @property
    def model(self) -> str:
        """See Writer."""
        return self._model.name

    async def write(self, task: Task, *, deadline: float) -> AsyncGenerator[str | Answer, None]:
        """See Writer."""
        deadline = min(deadline, time.monotonic() + self._limits.seconds)
        try:
            made = make_prompt(task, room_of(task, self._limits.room, self._limits.prices))
        except TooSmall as error:
            raise NotWritten(Fallback.BUDGET, str(error)) from None
        written = _Written(made, self._limits.prices)
        try:
            self._breaker.check()
            async with self.places.taken(deadline):
                with self._breaker.attempt(given_seconds=remaining(deadline)):
                    written.asked = True
                    async with aclosing(self._model.generate(made.prompt, deadline=deadline)) as parts:
                        async for part in parts:
                            if delta := written.take(part, shown=task.schema is None):
                                yield delta
        except SluiceError as failure:
            raise NotWritten(_fallback(failure), failure.message, written.usage()) from None
        except (asyncio.CancelledError, GeneratorExit):
            self._on_abandoned(written.usage())
            raise
        yield written.answer(task, self._model.name)


def _fallback(failure: SluiceError) -> Fallback:
    if isinstance(failure, DeadlineExceeded):
        return Fallback.TOO_SLOW
    return Fallback.BUSY if isinstance(failure, ResourceExhausted) else Fallback.UNAVAILABLE


class _Written:
    """Text that a model has written so far."""

    def __init__(self, made: Made, prices: Prices) -> None:
        self._made = made
        self._prices = prices
        self._text = ""
        self._shown = ""
        self._end: Finished | None = None
        self.asked = False
        """True once a model was asked: then what it reads is to be paid."""

    def take(self, part: str | Finished, *, shown: bool) -> str:
        """Take a part, and return what it adds to the text of the answer."""
        if isinstance(part, Finished):
            self._end = part
            return ""
        self._text += part
        if len(self._text) > self._made.prompt.most_tokens * _CHARACTERS_A_TOKEN:
            raise NotWritten(Fallback.INVALID, "the language model writes on and on", self.usage())
        return self._delta() if shown else ""

    def _delta(self) -> str:
        try:
            reply = from_json(self._text, allow_partial="trailing-strings")
        except ValueError:
            return ""
        answer = reply.get("answer") if isinstance(reply, dict) else None
        if not isinstance(answer, str):
            return ""
        delta, self._shown = alive(answer[len(self._shown) :]), answer
        return delta

    def usage(self) -> Usage:
        """Return what it took, estimated where the server does not say."""
        if not self.asked:
            return Usage()
        end = self._end or Finished(whole=False)
        read = end.prompt_tokens if end.prompt_tokens is not None else self._made.estimated_tokens
        wrote = end.completion_tokens if end.completion_tokens is not None else tokens_of(self._text)
        return Usage(read, wrote, self._prices.of(read, wrote))

    def answer(self, task: Task, model: str) -> Answer:
        """Check what was written, and return the answer. Raises NotWritten."""
        if self._end is None or not self._end.whole:
            raise NotWritten(Fallback.INVALID, "the answer of the language model has no end", self.usage())
        try:
            reply = json.loads(self._text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            reply = None
        if not conforms(reply, self._made.prompt.schema):
            raise NotWritten(Fallback.INVALID, "the answer of the language model is not of its schema", self.usage())
        citations, dropped = _checked(reply["citations"], task, self._made.quote_characters)
        value = reply["answer"]
        return Answer(
            text=alive(value if task.schema is None else json.dumps(value, ensure_ascii=False)).strip(),
            citations=citations,
            confidence=reply["confidence"] / 100,
            in_sources=reply["in_sources"],
            method=Method.LLM,
            dropped_citations=dropped,
            model=model,
            usage=self.usage(),
            sub_questions=[asked.strip() for asked in reply.get("sub_questions", []) if asked.strip()],
            truncated_passages=self._made.truncated_passages,
        )


def _refuse(constant: str) -> None:
    """Raise ValueError for NaN and infinities, which are no JSON and are within all bounds."""
    raise ValueError(constant)


def _checked(claimed: list[Mapping[str, Any]], task: Task, most: int) -> tuple[list[Citation], int]:
    """Return the citations whose words stand in their passage, once each, and the number of the others.

    The last word of a quote of `most` characters is left out where it was cut off.
    """
    folded: dict[int, Folded] = {}
    found: dict[tuple[str, int, int], Citation] = {}
    dropped = 0
    for one in claimed:
        place = one["passage"] - 1
        passage: Passage = task.passages[place]
        if place not in folded:
            folded[place] = Folded(passage.text)
        quote = one["quote"]
        span = folded[place].find(quote)
        if span is None and len(quote) >= most:
            span = folded[place].find(quote.rpartition(" ")[0])
        if span is None:
            dropped += 1
            continue
        start, end = span
        found[passage.id, start, end] = Citation(passage.id, passage.text[start:end], start, end)
    return list(found.values()), dropped
