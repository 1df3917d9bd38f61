from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from services.chassis.errors import InvalidArgument, Unavailable
from services.gateway.search.arms.moments import Moments


@dataclass
class Service:
    """Answers a word with itself in capitals, and notes its calls."""

    calls: list[tuple[Sequence[str], float]] = field(default_factory=list)
    let: asyncio.Event = field(default_factory=asyncio.Event)
    wrong: str = ""
    error: Exception | None = None
    ended: int = 0

    def __post_init__(self) -> None:
        self.let.set()

    async def alone(self, word: str, deadline: float) -> str:
        return (await self._called([word], deadline))[0]

    async def together(self, one: str, other: str, deadline: float) -> list[str]:
        return await self._called([one, other], deadline)

    async def _called(self, words: list[str], deadline: float) -> list[str]:
        self.calls.append((words, deadline))
        await self.let.wait()
        if self.error is not None:
            raise self.error
        if self.wrong in words:
            raise InvalidArgument("word", "is wrong")
        self.ended += 1
        return [word.upper() for word in words]

    @property
    def moments(self) -> Moments[str, str]:
        return Moments(self.alone, self.together)


async def test_two_calls_of_one_moment_go_together_and_have_the_later_deadline() -> None:
    service = Service()
    moments = service.moments
    found = await asyncio.gather(*(moments.call(word, deadline) for word, deadline in (("a", 5.0), ("b", 7.0))))
    assert found == ["A", "B"]
    assert service.calls == [(["a", "b"], 7.0)]


async def test_calls_of_other_moments_go_alone() -> None:
    service = Service()
    moments = service.moments
    assert [await moments.call("a", 5.0), await moments.call("b", 7.0)] == ["A", "B"]
    assert service.calls == [(["a"], 5.0), (["b"], 7.0)]


async def test_of_three_calls_one_goes_alone() -> None:
    service = Service()
    moments = service.moments
    assert await asyncio.gather(*(moments.call(word, 5.0) for word in "abc")) == ["A", "B", "C"]
    assert [words for words, _ in service.calls] == [["a", "b"], ["c"]]


async def test_a_wrong_request_is_refused_alone() -> None:
    service = Service(wrong="b")
    moments = service.moments
    good, refused = await asyncio.gather(moments.call("a", 5.0), moments.call("b", 5.0), return_exceptions=True)
    assert good == "A"
    assert isinstance(refused, InvalidArgument)


async def test_another_error_is_that_of_both() -> None:
    service = Service(error=Unavailable("down"))
    moments = service.moments
    one, other = await asyncio.gather(moments.call("a", 5.0), moments.call("b", 5.0), return_exceptions=True)
    assert one is other is service.error
    assert len(service.calls) == 1


@pytest.mark.parametrize("leaving", [1, 2])
async def test_a_call_is_given_up_when_nobody_waits_for_it(leaving: int) -> None:
    service = Service()
    service.let.clear()
    moments = service.moments
    asking = [asyncio.create_task(moments.call(word, 5.0)) for word in "ab"]
    while not service.calls:
        await asyncio.sleep(0)
    for one in asking[:leaving]:
        one.cancel()
    await asyncio.wait(asking[:leaving])
    service.let.set()
    assert [await one for one in asking[leaving:]] == ["B"] * (2 - leaving)
    assert service.ended == (leaving == 1)
