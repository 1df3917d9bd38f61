"""A stage or Qdrant dies and comes back: until when callers see errors, and which breaker opens."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from drills.faults.drill import Group, Seen
from drills.faults.replicas import words_for
from drills.parts.processes import LIGHT, metric, reserve, running
from sluice_client import AsyncClient, Document, SluiceError
from tests.qdrant_server import QdrantServer

group: Group[None] = Group("recovery")

AWAY_SECONDS = 6.0
LATEST_SECONDS = 2.0


class Watch:
    """Searches and stores all the time, and notes every error with its time."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.errors: list[tuple[float, str]] = []
        self.calls = 0

    async def run(self) -> None:
        """Work until cancelled."""
        await asyncio.gather(self._again(self._search, 0.1), self._again(self._store, 0.05))

    async def _again(self, call: Callable[[], Awaitable[object]], pause: float) -> None:
        while True:
            try:
                await call()
            except SluiceError as error:
                self.errors.append((time.monotonic(), f"{error.code.name} {error.reason}"))
            self.calls += 1
            await asyncio.sleep(pause)

    async def _search(self) -> None:
        await self._client.search("words", collection="recovery", timeout=3)

    async def _store(self) -> None:
        await self._client.index(
            [Document(f"w{self.calls}", "", f"words {self.calls}")], collection="recovery", timeout=5
        )

    def told(self, back: float) -> tuple[bool, str]:
        """True if errors ended in time, and what was seen."""
        late = max((at for at, _ in self.errors), default=back) - back
        kinds = words_for(Counter(said for _, said in self.errors))
        return bool(self.errors) and late <= LATEST_SECONDS, f"{kinds or 'no errors'}; the last {late:+.1f} s after"


@group.row(
    "recovery of a stage",
    "a retriever, and then an embedder, is killed and started again 6 s later while callers search and store: the last "
    "error comes at most 2 s after it serves again",
)
async def stage_recovers(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        light = LIGHT | {"QDRANT_PATH": str(Path(folder) / "qdrant")}
        stages = {name: await stack.enter_async_context(running(name, light)) for name in ("embedder", "retriever")}
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        gateway = await stack.enter_async_context(running("gateway", addresses))
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        await client.index([Document("base", "", "words")], collection="recovery")
        all_ok, words = True, []
        for name, stage in reversed(stages.items()):
            watch = Watch(client)
            watching = asyncio.create_task(watch.run())
            await asyncio.sleep(1)
            stage.kill()
            await stage.ended()
            await asyncio.sleep(AWAY_SECONDS)
            await stage.start()
            back = time.monotonic()
            await asyncio.sleep(8)
            watching.cancel()
            ok, told = watch.told(back)
            all_ok = all_ok and ok
            words.append(f"{name}: {told}")
    return Seen(all_ok, "; ".join(words))


@group.row(
    "recovery of Qdrant",
    "Qdrant goes and comes back after 9 s while callers search and store: the last error comes at most 2 s after; the "
    "retriever's breaker for it opens and the gateway's breaker for the retriever does not",
)
async def qdrant_recovers(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(QdrantServer())
        ports = {name: stack.enter_context(reserve("127.0.0.1")).getsockname()[1] for name in ("gateway", "retriever")}
        qdrant = {"QDRANT_URL": server.url, "QDRANT_GRPC_PORT": str(server.port)}
        embedder = await stack.enter_async_context(running("embedder", LIGHT))
        retriever = await stack.enter_async_context(
            running("retriever", qdrant | {"METRICS_PORT": str(ports["retriever"])})
        )
        gateway = await stack.enter_async_context(
            running(
                "gateway",
                {
                    "EMBEDDER_ADDRESS": embedder.address,
                    "RETRIEVER_ADDRESS": retriever.address,
                    "METRICS_PORT": str(ports["gateway"]),
                },
            )
        )
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        await client.index([Document("base", "", "words")], collection="recovery")
        watch = Watch(client)
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(1)
        await server.stop()
        await asyncio.sleep(9)
        await server.start()
        back = time.monotonic()
        await asyncio.sleep(8)
        watching.cancel()
        near = await metric(f"127.0.0.1:{ports['retriever']}", "qdrant_circuit_breaker_transitions_total", state="open")
        far = await metric(
            f"127.0.0.1:{ports['gateway']}",
            "sluice_stage_breaker_transitions_total",
            stage="retriever",
            state="open",
        )
    ok, told = watch.told(back)
    return Seen(
        ok and near > 0 and far == 0, f"{told}; breakers opened: {near:.0f} for Qdrant, {far:.0f} for the retriever"
    )
