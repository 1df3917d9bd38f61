"""Calls of one moment, two of which go together.

Two arms of an experiment search at the same time for the same question, and a call of its own costs about as much as
the search in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from services.chassis.errors import InvalidArgument

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class _Waiting(NamedTuple, Generic[RequestT, ReplyT]):
    request: RequestT
    deadline: float
    reply: asyncio.Future[ReplyT]


class Moments(Generic[RequestT, ReplyT]):
    """Makes the calls of one user's request. For one event loop."""

    def __init__(
        self,
        alone: Callable[[RequestT, float], Awaitable[ReplyT]],
        together: Callable[[RequestT, RequestT, float], Awaitable[Sequence[ReplyT]]],
    ) -> None:
        """Take calls of one request and of two, each with a deadline on the monotonic clock."""
        self._alone = alone
        self._together = together
        self._waiting: list[_Waiting[RequestT, ReplyT]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def call(self, request: RequestT, deadline: float) -> ReplyT:
        """Make a call, with another that is made before the event loop turns to something else."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[RequestT, ReplyT](request, deadline, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._begin)
        self._waiting.append(waiting)
        return await waiting.reply

    def _begin(self) -> None:
        made, self._waiting = self._waiting, []
        for start in range(0, len(made), 2):
            pair = made[start : start + 2]
            call = asyncio.create_task(self._make(pair))
            # The event loop itself keeps no task alive.
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            for waiting in pair:
                waiting.reply.add_done_callback(partial(_end, pair, call))

    async def _make(self, pair: Sequence[_Waiting[RequestT, ReplyT]]) -> None:
        try:
            if len(pair) == 1:
                replies: Sequence[ReplyT] = [await self._alone(pair[0].request, pair[0].deadline)]
            else:
                one, other = pair
                deadline = max(one.deadline, other.deadline)
                replies = await self._together(one.request, other.request, deadline)
        except InvalidArgument as error:
            if len(pair) > 1:  # one of them is at fault, and the other is not
                for waiting in pair:
                    await self._make([waiting])
                return
            _fail(pair, error)
        except Exception as error:  # who waits raises it
            _fail(pair, error)
        else:
            for waiting, reply in zip(pair, replies, strict=True):
                if not waiting.reply.done():
                    waiting.reply.set_result(reply)


def _fail(pair: Sequence[_Waiting[RequestT, ReplyT]], error: Exception) -> None:
    for waiting in pair:
        if not waiting.reply.done():
            waiting.reply.set_exception(error)


def _end(pair: Sequence[_Waiting[RequestT, ReplyT]], call: asyncio.Task[None], _: asyncio.Future[ReplyT]) -> None:
    """Give up a call for which nobody waits any more."""
    if all(waiting.reply.cancelled() for waiting in pair):
        call.cancel()
