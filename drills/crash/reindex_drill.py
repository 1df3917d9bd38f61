"""`sluice reindex` and the gateway, killed at random moments: each rebuild ends equal to an undisturbed one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from drills.crash.platform import SECOND_MODEL, Processes, documents, killed_at_random, platform
from sluice_client import AsyncClient

DOCUMENTS = 5000
_LONGEST_SECONDS = 6.0


async def drill(kills: int) -> list[dict[str, Any]]:
    """The rows of this drill."""
    async with platform() as processes, AsyncClient(processes.gateway.address) as client:
        await client.index_all(documents(DOCUMENTS), batch_size=512)
        await _end(processes)
        reference = await processes.points("documents-v2")
        live = await processes.points("documents-v1")
        await _again(processes)
        command_kills = gateway_kills = rebuilds = 0
        same = True
        while command_kills + gateway_kills < kills:
            process = await processes.command("reindex", "--model", SECOND_MODEL, "--json")
            if random.random() < 0.5:
                command_kills += await killed_at_random(process, _LONGEST_SECONDS)
            else:
                await asyncio.sleep(random.uniform(0, _LONGEST_SECONDS))
                processes.gateway.kill()
                await processes.gateway.ended()
                gateway_kills += 1
                if random.random() < 0.5:  # the command waits for the gateway to come back, unless it dies, too
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                await processes.gateway.start()
                await process.wait()
            if await _is_live(processes, "documents-v2"):
                rebuilds += 1
                same = same and await processes.points("documents-v2") == reference
                await _again(processes)
        await _end(processes)
        rebuilds += 1
        same = same and await processes.points("documents-v2") == reference
        same_live = await processes.points("documents-v1") == live
    return [
        {
            "drill": "reindex killed",
            "kills": command_kills + gateway_kills,
            "expected": f"every rebuild of {DOCUMENTS:,} documents is that of an undisturbed one, point for point, and "
            "the version before is untouched",
            "observed": f"{command_kills} kills of the command, {gateway_kills} of the gateway, {rebuilds} rebuilds: "
            f"{'all equal' if same else 'DIFFERENT'}; the version before is {'the same' if same_live else 'DIFFERENT'}",
            "ok": same and same_live,
        }
    ]


async def _end(processes: Processes) -> None:
    """Let the command run to its end."""
    process = await processes.command("reindex", "--model", SECOND_MODEL, "--json")
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def _is_live(processes: Processes, version: str) -> bool:
    await processes.settled()
    async with AsyncClient(processes.gateway.address) as client:
        live = (await client.config(timeout=30)).collection
        return live is not None and live.version == version


async def _again(processes: Processes) -> None:
    """Back to the version before, as if nothing had been built."""
    async with AsyncClient(processes.gateway.address) as client:
        await client.rollback("documents-v1")
        await client.delete_version("documents-v2")
