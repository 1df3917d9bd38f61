"""Answers by a language model where it works and has time, and of sentences otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from services.chassis.timing import answer_by
from services.reasoner.answers import Answer, Fallback, Task, Usage
from services.reasoner.extraction import extract

# Time that is kept for an extractive answer: at most this, and this share of what there is.
_EXTRACTION_SECONDS = 0.1
_EXTRACTION_SHARE = 0.2


class NotWritten(Exception):
    """A model did not write a usable answer."""

    def __init__(self, fallback: Fallback, detail: str, usage: Usage = Usage()) -> None:  # noqa: B008  # immutable
        super().__init__(detail)
        self.fallback = fallback
        self.detail = detail
        self.usage = usage


class Writer(Protocol):
    """Writes answers with a language model."""

    @property
    def model(self) -> str:
        """Name of the model."""

    def write(self, task: Task, *, deadline: float) -> AsyncGenerator[str | Answer, None]:
        """Yield the text of an answer as it is written, and the checked answer at the end. Raises NotWritten."""


class Reasoner:
    """Answers questions from passages."""

    def __init__(self, writer: Writer | None) -> None:
        """Without a writer, all answers are extractive."""
        self._writer = writer

    async def answer(self, task: Task, *, deadline: float) -> AsyncGenerator[str | Answer, None]:
        """Yield the text as it is written, and at the end the answer; deadline on the monotonic clock.

        The answer stands for all text before it: where the model fails, it is extractive.
        """
        writer, failure = self._writer, None
        if task.passages and not task.extractive:
            if writer is None:
                failure = NotWritten(Fallback.NOT_CONFIGURED, "no language model is configured; set REASONER_LLM_URL")
            else:
                try:
                    async with aclosing(writer.write(task, deadline=_until(task, deadline))) as parts:
                        async for part in parts:
                            yield part
                    return
                except NotWritten as fault:
                    failure = fault
        # Long passages take long enough to hold up other calls.
        answer = await asyncio.to_thread(extract, task.question, task.passages)
        if task.schema is not None:
            answer = replace(answer, text="")
        if failure is not None:
            answer = replace(
                answer,
                fallback=failure.fallback,
                fallback_detail=failure.detail,
                model=writer.model if writer is not None else "",
                usage=failure.usage,
            )
        yield answer


def _until(task: Task, deadline: float) -> float:
    """Moment by which a model has to be done, so that there is time for an extractive answer."""
    now = time.monotonic()
    finish = answer_by(now, deadline)
    last = finish - min(_EXTRACTION_SECONDS, (finish - now) * _EXTRACTION_SHARE)
    return last if task.bounds.seconds is None else min(last, now + task.bounds.seconds)
