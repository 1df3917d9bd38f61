"""The alias, moved to and fro under questions, by calls and by commands that are killed: no question notices.

Each version has titles of its own, so that an answer tells where each of its results is from.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

from drills.crash.platform import FIRST_MODEL, SECOND_MODEL, documents, killed_at_random, platform
from sluice_client import AsyncClient, Features, SluiceError, Stage

DOCUMENTS = 1000
_ASKERS = 4
_LIMIT = 20
_TITLES = {"documents-v1": "one", "documents-v2": "two"}
_MODELS = {"documents-v1": FIRST_MODEL, "documents-v2": SECOND_MODEL}


async def drill(kills: int) -> list[dict[str, Any]]:
    """The rows of this drill."""
    async with platform() as processes, AsyncClient(processes.gateway.address) as client:
        await client.index_all(documents(DOCUMENTS, "one"), batch_size=512)
        async for _ in client.reindex(SECOND_MODEL):
            pass
        await client.index_all(documents(DOCUMENTS, "two"), batch_size=512)
        over = asyncio.Event()
        answered: Counter[str] = Counter()
        wrong: list[str] = []
        slowest = 0.0

        async def ask() -> None:
            while not over.is_set():
                query = f"{random.randrange(DOCUMENTS)} quick wizards"
                features = Features(dense=True, lexical=random.random() < 0.5)
                try:
                    answer = await client.search(query, limit=_LIMIT, features=features, timeout=10)
                except SluiceError as error:
                    wrong.append(str(error))
                    continue
                version = answer.index_version
                answered[version] += 1
                titles = {result.passage.title for result in answer.results}
                models = {stage.model for stage in answer.stages if stage.stage is Stage.EMBED}
                if titles != {_TITLES[version]} or models != {_MODELS[version]} or len(answer.results) != _LIMIT:
                    wrong.append(f"{version}: {titles} by {models}, {len(answer.results)} results")

        async with asyncio.TaskGroup() as group:
            for _ in range(_ASKERS):
                group.create_task(ask())
            switches = commands = killed = 0
            while killed < kills:
                started = time.monotonic()
                await client.rollback()
                slowest = max(slowest, time.monotonic() - started)
                switches += 1
                await asyncio.sleep(random.uniform(0, 0.3))
                commands += 1
                killed += await killed_at_random(await processes.command("rollback"), 3.0)
            over.set()
        versions = [(one.version.version, one.version.live) async for one in client.list_collections()]
    mixed = f"{len(wrong)} wrong, as {wrong[0]}" if wrong else "none failed, none mixed"
    return [
        {
            "drill": "alias switched under questions",
            "kills": killed,
            "expected": "no question fails, and no answer has results, or a query's model, of another version",
            "observed": f"{switches} switches (slowest {slowest * 1000:.0f} ms) and {commands} commands, {killed} of "
            f"them killed: {sum(answered.values()):,} answers, {dict(answered)}: {mixed}",
            "ok": not wrong and len(answered) == len(_TITLES) and sum(live for _, live in versions) == 1,
        }
    ]
