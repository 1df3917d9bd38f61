"""What feedback costs a search: two gateways before the same stages, asked the same in turn.

One gives out no tokens; the other one signs every answer and has it stored.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.pairs.__main__ import WORDS_A_QUESTION, texts
from deploy.local.paths import BUILD
from drills.feedback.traffic import KEY
from drills.feedback.world import SERVICE, UNLIMITED
from drills.parts.processes import StageProcess
from sluice_client import AsyncClient, Document
from sluice_statistics.intervals import bootstrap
from tests.postgres_server import PostgresServer

PASSAGES = 1000
MOST_RATIO = 1.02


async def compared(rounds: int, each: int) -> dict[str, Any]:
    """The ratio of medians, with its interval over the rounds; the first round warms up."""
    BUILD.mkdir(exist_ok=True)
    async with AsyncExitStack() as owned:
        folder = Path(owned.enter_context(TemporaryDirectory(dir=BUILD, prefix="feedback-")))
        url = (await asyncio.to_thread(owned.enter_context, PostgresServer())).database()

        async def started(stage: str, **environment: str) -> StageProcess:
            process = StageProcess(stage, "127.0.0.1", environment)
            owned.push_async_callback(process.close)
            await process.start()
            return process

        rollout = await started("rollout", **SERVICE, ROLLOUT_DATABASE_URL=url)
        embedder = await started("embedder", EMBEDDING_MODEL="all-MiniLM-L6-v2", CACHE_ENTRIES="0")
        retriever = await started("retriever", **UNLIMITED, QDRANT_PATH=str(folder / "qdrant"))
        behind = {
            **UNLIMITED,
            "EMBEDDER_ADDRESS": embedder.address,
            "RETRIEVER_ADDRESS": retriever.address,
            "ROLLOUT_ADDRESS": rollout.address,
        }
        sides = {
            "off": await started("gateway", **behind),
            "on": await started("gateway", **behind, FEEDBACK_KEYS=KEY, FEEDBACK_IMPRESSIONS="all"),
        }
        clients = {
            name: await owned.enter_async_context(AsyncClient(side.address, timeout=30)) for name, side in sides.items()
        }
        await clients["on"].index_all(
            Document(str(place), "", text) for place, text in enumerate(texts(0, PASSAGES, 60))
        )
        medians: dict[str, list[float]] = {"off": [], "on": []}
        processor: dict[str, list[float]] = {"off": [], "on": []}
        for number in range(rounds + 1):
            seconds: dict[str, list[float]] = {"off": [], "on": []}
            used = {name: -side.processor_seconds for name, side in sides.items()}
            for place, question in enumerate(texts(number + 1, each, WORDS_A_QUESTION)):
                for name in ("off", "on") if place % 2 else ("on", "off"):
                    started_at = time.perf_counter()
                    await clients[name].search(question, user_id=f"user-{place}")
                    seconds[name].append(time.perf_counter() - started_at)
            for name, side in sides.items():
                used[name] += side.processor_seconds
                if number:
                    medians[name].append(statistics.median(seconds[name]))
                    processor[name].append(used[name] / each)
        ratio = bootstrap([on / off for on, off in zip(medians["on"], medians["off"], strict=True)])
        return {
            "search_p50_ratio": round(ratio.value, 4),
            "interval": [round(ratio.low, 4), round(ratio.high, 4)],
            "bound": MOST_RATIO,
            "p50_ms": {name: round(1000 * statistics.median(values), 3) for name, values in medians.items()},
            "gateway_processor_ms": {
                name: round(1000 * statistics.median(values), 3) for name, values in processor.items()
            },
            "searches": rounds * each,
        }
