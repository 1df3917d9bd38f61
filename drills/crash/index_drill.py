"""`sluice index`, killed at random moments and started again: point for point what an uninterrupted run stores."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.paths import BUILD, ROOT
from drills.parts.engine import stored
from drills.parts.processes import StageProcess, running
from sluice_client import AsyncClient, SluiceError

STAGES = ("gateway", "embedder", "retriever")
# Some documents are long enough for several chunks of 64 words, some are the same document in another version, and
# some lines are none.
_OPTIONS = ("--chunk-tokens", "64", "--batch-size", "64")
_LONG, _AGAIN, _BAD = 7, 50, 100
_UNLIMITED = {"CONCURRENCY_LOWEST": "200", "CONCURRENCY_INITIAL": "200"}
_NEEDS_A_LOOK = 1
_STAGE_PAUSE_SECONDS = 0.5


class Drill:
    """The stages that indexing takes, and the sources and collections that it is tried with."""

    def __init__(self, folder: Path, documents: int, stages: dict[str, StageProcess]) -> None:
        self.folder = folder
        self.documents = documents
        self.stages = stages
        self.seconds = 0.0
        """Duration of an uninterrupted run."""
        self.collections: list[str] = []

    async def uninterrupted(self) -> None:
        """Store the source once, undisturbed."""
        started = time.monotonic()
        command = await self.command("reference")
        assert await command.wait() == _NEEDS_A_LOOK, (self.folder / "reference.log").read_text()
        self.seconds = time.monotonic() - started

    async def killed(self, collection: str, most: int) -> int:
        """Store the source with the command killed again and again; the number of kills."""
        kills = 0
        while True:
            command = await self.command(collection)
            if kills < most and await _killed_at_random(command, self.seconds / 2):
                kills += 1
                continue
            assert await command.wait() == _NEEDS_A_LOOK, (self.folder / f"{collection}.log").read_text()
            self.collections.append(collection)
            return kills

    async def with_stage_killed(self, stage: str, collection: str, most: int) -> int:
        """Store the source with a stage killed again and again under the command; the number of kills."""
        kills = 0
        while True:
            command = await self.command(collection)
            while command.returncode is None and kills < most:
                with suppress(TimeoutError):
                    await asyncio.wait_for(command.wait(), random.uniform(0.5, 0.5 + self.seconds / 2))
                    break
                self.stages[stage].kill()
                await self.stages[stage].ended()
                kills += 1
                await asyncio.sleep(random.uniform(0, _STAGE_PAUSE_SECONDS))
                await self.stages[stage].start()
            if await command.wait() == _NEEDS_A_LOOK:
                self.collections.append(collection)
                return kills
            await self.settled()

    async def command(self, collection: str) -> asyncio.subprocess.Process:
        """The command under way, for this collection."""
        source = self.folder / f"{collection}.jsonl"
        if not source.exists():
            await asyncio.to_thread(_write, source, self.documents)
        with (self.folder / f"{collection}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sluice_cli.main", "--gateway", self.stages["gateway"].address),
                *("index", str(source), "--collection", collection, *_OPTIONS),
                *("--rejects", f"{source}.rejects.jsonl", "--checkpoint", f"{source}.checkpoint.json"),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    async def settled(self) -> None:
        """Return when the gateway reaches all of them again."""
        async with asyncio.timeout(60), AsyncClient(self.stages["gateway"].address) as client:
            while True:
                with suppress(SluiceError):
                    config = await client.config("reference")
                    if config.collection:
                        return
                await asyncio.sleep(0.1)

    async def points(self) -> dict[str, dict[str, Any]]:
        """All points of all collections, read from the folder after the retriever has ended."""
        self.stages["retriever"].terminate()
        await self.stages["retriever"].ended()
        return await stored(self.folder / "qdrant", "reference", *self.collections)

    def rejects(self, collection: str) -> list[str]:
        """Rejected lines, in the order of the source."""
        lines = (self.folder / f"{collection}.jsonl.rejects.jsonl").read_text().splitlines()
        return sorted(lines, key=lambda line: json.loads(line)["line"])


async def drill(kills: int, documents: int = 5000, stages: Sequence[str] = STAGES) -> list[dict[str, Any]]:
    """Kill the command, and these stages under it a tenth as often; a row for each of them."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=BUILD, prefix="crash-index-") as name:
        folder = Path(name)
        async with (
            running("embedder", {"EMBEDDING_MODEL": "", "PSEUDO_DIMENSION": "64"}) as embedder,
            running(
                "retriever", {"QDRANT_PATH": str(folder / "qdrant"), "DRAIN_SECONDS": "0", **_UNLIMITED}
            ) as retriever,
            running(
                "gateway",
                {
                    "EMBEDDER_ADDRESS": embedder.address,
                    "RETRIEVER_ADDRESS": retriever.address,
                    # Stages go away and come back often, and no one is to wait for that longer than needed.
                    "BREAKER_RESET_SECONDS": "0.5",
                    **_UNLIMITED,
                },
            ) as gateway,
        ):
            trial = Drill(folder, documents, {"gateway": gateway, "embedder": embedder, "retriever": retriever})
            await trial.uninterrupted()
            done: dict[str, tuple[int, list[str]]] = {}
            made, collections = 0, []
            while made < kills:
                collections.append(f"killed-{len(collections)}")
                made += await trial.killed(collections[-1], kills - made)
            done["command"] = (made, collections)
            for stage in stages:
                collection = f"without-{stage}"
                done[stage] = (await trial.with_stage_killed(stage, collection, max(1, kills // 10)), [collection])
            points = await trial.points()
            return [_row(trial, points, killed, *done[killed]) for killed in done]


def _row(
    trial: Drill, points: dict[str, dict[str, Any]], killed: str, kills: int, collections: list[str]
) -> dict[str, Any]:
    wanted, rejected = points["reference"], trial.rejects("reference")
    lost = sum(len(wanted.keys() - points[name].keys()) for name in collections)
    extra = sum(len(points[name].keys() - wanted.keys()) for name in collections)
    other = sum(
        points[name].get(identity, point) != point for name in collections for identity, point in wanted.items()
    )
    rejects = sum(trial.rejects(name) != rejected for name in collections)
    leftovers = sum((trial.folder / f"{name}.jsonl.checkpoint.json").exists() for name in collections)
    return {
        "drill": f"index of {trial.documents:,} documents, SIGKILL of the {killed}",
        "kills": kills,
        "expected": f"{len(collections)} times the {len(wanted):,} points of an uninterrupted run, and its rejects",
        "observed": f"{lost} lost, {extra} too many, {other} different, {rejects} other rejects files, "
        f"{leftovers} checkpoints left",
        "ok": not (lost or extra or other or rejects or leftovers) and len(wanted) > trial.documents,
    }


def _write(source: Path, documents: int) -> None:
    """The same every time."""
    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghij", k=5)) for _ in range(500)]
    with source.open("w", encoding="utf-8") as stream:
        for place in range(documents):
            identity = place if place % _AGAIN else place // 2
            length = chance.randint(80, 300) if place % _LONG == 0 else 20
            record = {
                "id": f"d{identity}",
                "text": " ".join(chance.choices(words, k=length)),
                "metadata": {"at": place},
            }
            stream.write(json.dumps(record) + "\n")
            if place % _BAD == 0:
                stream.write("no document\n")


async def _killed_at_random(process: asyncio.subprocess.Process, longest: float) -> bool:
    """Kill a process at a random moment within a time in seconds; False if it had ended by itself."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), random.uniform(0, longest))
        return False
    process.kill()
    await process.wait()
    return True


if __name__ == "__main__":
    print(json.dumps(asyncio.run(drill(int(sys.argv[1]) if len(sys.argv) > 1 else 50)), indent=1))  # noqa: T201  # its output
