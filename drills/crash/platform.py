"""The stages that the life of an index takes, as processes: two embedders, the retriever, the gateway."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.paths import BUILD, ROOT
from drills.parts.engine import stored
from drills.parts.processes import StageProcess, running
from sluice_client import AsyncClient, Document, SluiceError

FIRST_MODEL, SECOND_MODEL = "pseudo-64", "pseudo-32"
_UNLIMITED = {"CONCURRENCY_LOWEST": "200", "CONCURRENCY_INITIAL": "200"}
_WORDS = "seven wizards box while the quick brown fox jumps over a lazy dog and judges my vow".split()  # noqa: SIM905


@dataclass
class Processes:
    """Processes to kill, and a folder that outlives them."""

    gateway: StageProcess
    retriever: StageProcess
    data: Path

    async def points(self, version: str) -> dict[str, Any]:
        """All points of a version by id, read from the folder while the retriever is down."""
        self.retriever.terminate()
        await self.retriever.ended()
        points = (await stored(self.data / "qdrant", version))[version]
        await self.retriever.start()
        await self.settled()
        return points

    async def settled(self) -> None:
        """Return when the gateway reaches the retriever again."""
        async with asyncio.timeout(60), AsyncClient(self.gateway.address) as client:
            while True:
                with suppress(SluiceError):
                    async for _ in client.list_collections():
                        pass
                    return
                await asyncio.sleep(0.1)

    async def command(self, *arguments: str) -> asyncio.subprocess.Process:
        """A `sluice` command against the gateway, under way."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sluice_cli.main", "--gateway", self.gateway.address, *arguments),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@asynccontextmanager
async def platform() -> AsyncIterator[Processes]:
    """All of them, serving."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=BUILD, prefix="crash-") as folder:
        data = Path(folder)
        places = {"QDRANT_PATH": str(data / "qdrant"), "QDRANT_SNAPSHOT_PATH": str(data / "snapshots")}
        async with (
            running("embedder", {"EMBEDDING_MODEL": "", "PSEUDO_DIMENSION": "64"}) as first,
            running("embedder", {"EMBEDDING_MODEL": "", "PSEUDO_DIMENSION": "32"}) as second,
            running("retriever", {**places, **_UNLIMITED, "DRAIN_SECONDS": "0"}) as retriever,
            running(
                "gateway",
                {
                    "EMBEDDER_ADDRESS": first.address,
                    "EMBEDDER_ADDITIONAL_ADDRESSES": second.address,
                    "RETRIEVER_ADDRESS": retriever.address,
                    # The retriever goes away and comes back often, and no one is to wait for that longer than needed.
                    "BREAKER_RESET_SECONDS": "0.5",
                    **_UNLIMITED,
                },
            ) as gateway,
        ):
            yield Processes(gateway, retriever, data)


def documents(count: int, title: str = "") -> Iterator[Document]:
    """The same every time."""
    chance = random.Random(count)
    for place in range(count):
        words = " ".join(chance.choices(_WORDS, k=20))
        yield Document(f"d{place}", title, f"{place} {words}", {"place": place})


async def killed_at_random(process: asyncio.subprocess.Process, longest: float) -> bool:
    """Kill a process at a random moment within a time in seconds; False if it had ended by itself."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), random.uniform(0, longest))
    if process.returncode is not None:
        return False
    process.kill()
    await process.wait()
    return True
