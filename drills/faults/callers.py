"""Callers that take more than their part."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from drills.faults.drill import Group, Seen, ms
from drills.faults.replicas import words_for
from drills.parts.flood import passage
from drills.parts.hog import hog
from drills.parts.processes import running
from sluice_client import AsyncClient, Document, SluiceError
from sluice_statistics.percentiles import percentile

PASSAGES = 400
CONNECTIONS, CALLS = 100, 500
PER_SECOND, SECONDS = 5, 20
ANSWERED, SLOWER = 0.95, 3.0
KEYS = {"hog": "sluice_" + "h" * 43, "honest": "sluice_" + "o" * 43}


@dataclass(frozen=True)
class Gateway:
    """A gateway at its shipped limits, with a key for each of two callers, and an audit log."""

    address: str
    audit: Path


@asynccontextmanager
async def platform() -> AsyncIterator[Gateway]:
    """A gateway before an embedder and a retriever with a small index."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        rows = [
            f'[[key]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\nroles = ["writer"]\n'
            for name, key in KEYS.items()
        ]
        (folder / "callers.toml").write_text("\n".join(rows), encoding="utf-8")
        embedder = await stack.enter_async_context(running("embedder"))
        retriever = await stack.enter_async_context(running("retriever", {"QDRANT_PATH": str(folder / "qdrant")}))
        environment = {
            "EMBEDDER_ADDRESS": embedder.address,
            "RETRIEVER_ADDRESS": retriever.address,
            "AUTH_CALLERS": str(folder / "callers.toml"),
            "AUDIT_DIR": str(folder / "audit"),
        }
        gateway = await stack.enter_async_context(running("gateway", environment))
        async with AsyncClient(gateway.address, token=KEYS["honest"]) as client:
            documents = (Document(f"d{number}", "", f"{passage(40)} {number}") for number in range(PASSAGES))
            await client.index_all(documents, collection="load")
        yield Gateway(gateway.address, folder / "audit" / "gateway.jsonl")


group: Group[Gateway] = Group("callers", platform)
_numbers = itertools.count()


async def honest(client: AsyncClient, seconds: float) -> tuple[Counter[str], list[float]]:
    """Ask five times a second, whether or not what was asked before is answered; the outcomes, and their times."""
    ended: Counter[str] = Counter()
    times: list[float] = []

    async def ask() -> None:
        started = time.perf_counter()
        try:
            await client.search(f"{passage(5)} honest {next(_numbers)}", collection="load", timeout=5)
            ended["OK"] += 1
        except SluiceError as error:
            ended[f"{error.code.name} {error.reason}"] += 1
        times.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(round(seconds * PER_SECOND)):
            tasks.create_task(ask())
            await asyncio.sleep(1 / PER_SECOND)
    return ended, times


@group.row(
    "one caller with 500 calls in flight",
    "on 100 connections, each called again at once: an honest caller at 5 a second keeps at least 95 % OK and a p95 of "
    "at most 3 times that without it; the audit log tells of the refusals in two lines a second at most",
)
async def one_caller(gateway: Gateway) -> Seen:
    async with AsyncClient(gateway.address, token=KEYS["honest"]) as client:
        await honest(client, 2)
        _outcomes, alone = await honest(client, SECONDS)
        async with hog(gateway.address, KEYS["hog"], CONNECTIONS, CALLS) as taken:
            await asyncio.sleep(2)
            ended, beside = await honest(client, SECONDS)
    before, during = percentile(alone, 95), percentile(beside, 95)
    answered = ended["OK"] / ended.total()
    lines = [json.loads(line) for line in gateway.audit.read_text(encoding="utf-8").splitlines()]
    refusals = [line for line in lines if line.get("reason") == "QUOTA_EXCEEDED"]
    counted = sum(line.get("count", 1) for line in refusals)
    # Two limits refuse; the hog is cut off before it has heard of the last refusals.
    told = 0 < len(refusals) <= 4 * (SECONDS + 6) and counted >= taken["QUOTA_EXCEEDED"]
    ok = answered >= ANSWERED and during <= SLOWER * before and taken["OK"] > 0 and told
    words = f"honest: {words_for(ended)}, p95 {ms(during)} beside it, {ms(before)} alone ({during / before:.1f} times)"
    return Seen(ok, f"{words}; it: {words_for(taken)}; {counted} refusals in {len(refusals)} lines")
