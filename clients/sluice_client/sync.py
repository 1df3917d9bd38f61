"""Clients without asyncio: asyncio clients on an event loop in a thread.

Methods, errors and deadlines are those of the asyncio clients. An iterator asks for a page when it is wanted.
Callbacks of `index_all` run in that thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from sluice_client.channel import Caller, Credentials
from sluice_client.client import AsyncClient
from sluice_client.experiment.client import AsyncExperimentClient
from sluice_client.rollout.client import AsyncRolloutClient

CallerT = TypeVar("CallerT", bound=Caller)
P = ParamSpec("P")
T = TypeVar("T")


class _Blocking(Generic[CallerT]):
    """An asyncio client and the thread of its event loop."""

    def __init__(self, client: CallerT) -> None:
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        opened: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._serve(opened),), name="sluice-client", daemon=True
        )
        self._thread.start()
        try:
            self._loop = opened.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    async def _serve(self, opened: Future[asyncio.AbstractEventLoop]) -> None:
        self._closing = asyncio.Event()
        try:
            async with self._client:
                opened.set_result(asyncio.get_running_loop())
                await self._closing.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop; an interrupt cancels it."""
        if self._loop is None:
            coroutine.close()
            raise RuntimeError(f"the client is not open; use it as `with {type(self).__name__}(...) as client:`")
        running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise


def _call(
    method: Callable[Concatenate[CallerT, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking[CallerT], P], T]:
    """Make a method that waits for the result of an asyncio method."""

    @functools.wraps(method)
    def call(self: _Blocking[CallerT], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterate(
    method: Callable[Concatenate[CallerT, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Blocking[CallerT], P], Iterator[T]]:
    """Make a method that iterates over what an asyncio method yields."""

    @functools.wraps(method)
    def iterate(self: _Blocking[CallerT], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._client, *args, **kwargs)

        async def following() -> T | None:
            return await anext(items, None)

        try:
            while (item := self._run(following())) is not None:
                yield item
        finally:
            if self._loop is not None and isinstance(items, AsyncGenerator):  # a stream ends when nobody reads on
                self._run(items.aclose())

    return iterate


class Client(_Blocking[AsyncClient]):
    """A client of one gateway, used as `with Client(address) as client:`.

    Takes the arguments of `AsyncClient`. Any number of threads may share it.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        timeout: float = 10.0,
        index_timeout: float = 120.0,
        waits: bool = True,
        **credentials: Unpack[Credentials],
    ) -> None:
        super().__init__(AsyncClient(address, timeout=timeout, index_timeout=index_timeout, waits=waits, **credentials))

    search = _call(AsyncClient.search)
    compare = _call(AsyncClient.compare)
    answer = _call(AsyncClient.answer)
    stream_answer = _iterate(AsyncClient.stream_answer)
    pages = _iterate(AsyncClient.pages)
    search_all = _iterate(AsyncClient.search_all)
    count_by_field = _call(AsyncClient.count_by_field)
    index = _call(AsyncClient.index)
    index_all = _call(AsyncClient.index_all)
    delete = _call(AsyncClient.delete)
    relate = _call(AsyncClient.relate)
    get_documents = _call(AsyncClient.get_documents)
    list_documents = _iterate(AsyncClient.list_documents)
    config = _call(AsyncClient.config)
    check_access = _call(AsyncClient.check_access)
    list_collections = _iterate(AsyncClient.list_collections)
    create_collection = _call(AsyncClient.create_collection)
    tune = _call(AsyncClient.tune)
    delete_collection = _call(AsyncClient.delete_collection)
    reindex = _iterate(AsyncClient.reindex)
    verify = _call(AsyncClient.verify)
    rollback = _call(AsyncClient.rollback)
    delete_version = _call(AsyncClient.delete_version)
    create_snapshot = _call(AsyncClient.create_snapshot)
    list_snapshots = _iterate(AsyncClient.list_snapshots)
    restore_snapshot = _call(AsyncClient.restore_snapshot)
    delete_snapshot = _call(AsyncClient.delete_snapshot)
    enrich = _call(AsyncClient.enrich)
    record_events = _call(AsyncClient.record_events)


class RolloutClient(_Blocking[AsyncRolloutClient]):
    """A client of a rollout service, used as `with RolloutClient(...) as rollout:`.

    Takes the arguments of `AsyncRolloutClient`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50057",
        *,
        actor: str,
        timeout: float = 10.0,
        **credentials: Unpack[Credentials],
    ) -> None:
        super().__init__(AsyncRolloutClient(address, actor=actor, timeout=timeout, **credentials))

    features = _call(AsyncRolloutClient.features)
    feature = _call(AsyncRolloutClient.feature)
    create = _call(AsyncRolloutClient.create)
    start = _call(AsyncRolloutClient.start)
    promote = _call(AsyncRolloutClient.promote)
    hold = _call(AsyncRolloutClient.hold)
    set_share = _call(AsyncRolloutClient.set_share)
    halve = _call(AsyncRolloutClient.halve)
    roll_back = _call(AsyncRolloutClient.roll_back)
    kill = _call(AsyncRolloutClient.kill)
    rearm = _call(AsyncRolloutClient.rearm)
    history = _iterate(AsyncRolloutClient.history)
    report = _call(AsyncRolloutClient.report)


class ExperimentClient(_Blocking[AsyncExperimentClient]):
    """A client of the experiments of a rollout service, used as `with ExperimentClient(...) as experiments:`.

    Takes the arguments of `AsyncExperimentClient`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50057",
        *,
        actor: str,
        timeout: float = 10.0,
        **credentials: Unpack[Credentials],
    ) -> None:
        super().__init__(AsyncExperimentClient(address, actor=actor, timeout=timeout, **credentials))

    experiments = _iterate(AsyncExperimentClient.experiments)
    experiment = _call(AsyncExperimentClient.experiment)
    create = _call(AsyncExperimentClient.create)
    start = _call(AsyncExperimentClient.start)
    stop = _call(AsyncExperimentClient.stop)
    attach = _call(AsyncExperimentClient.attach)
    report = _call(AsyncExperimentClient.report)
    feedback = _iterate(AsyncExperimentClient.feedback)
