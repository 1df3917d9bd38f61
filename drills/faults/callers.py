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
# The shipped quotas are for a larger machine: here they are more than it can serve.
QUOTAS = "roles: {writer: {calls_per_second: 20, burst: 20, concurrent_calls: 4}}"
KEYS = {"hog": "sluice_" + "h" * 43, "honest": "sluice_" + "o" * 43}


@dataclass(frozen=True)
class Gateway:
    """A gateway with a key for each of two callers, quotas for a machine of two cores, and an audit log."""

    address: str
    audit: Path
    folder: Path


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
        (folder / "quotas.yaml").write_text(QUOTAS, encoding="utf-8")
        embedder = await stack.enter_async_context(running("embedder"))
        retriever = await stack.enter_async_context(running("retriever", {"QDRANT_PATH": str(folder / "qdrant")}))
        environment = {
            "EMBEDDER_ADDRESS": embedder.address,
            "RETRIEVER_ADDRESS": retriever.address,
            "AUTH_CALLERS": str(folder / "callers.toml"),
            "AUDIT_DIR": str(folder / "audit"),
            "QUOTA_FILE": str(folder / "quotas.yaml"),
        }
        gateway = await stack.enter_async_context(running("gateway", environment))
        async with AsyncClient(gateway.address, token=KEYS["honest"]) as client:
            documents = (Document(f"d{number}", "", f"{passage(40)} {number}") for number in range(PASSAGES))
            await client.index_all(documents, collection="load")
        yield Gateway(gateway.address, folder / "audit" / "gateway.jsonl", folder)


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


async def beside_a_hog(gateway: Gateway) -> tuple[Counter[str], float, float, Counter[str]]:
    """Outcomes of an honest caller and of one that takes all it gets; p95 of the honest one alone and beside it."""
    async with AsyncClient(gateway.address, token=KEYS["honest"]) as client:
        await honest(client, 2)
        _outcomes, alone = await honest(client, SECONDS)
        async with hog(gateway.address, KEYS["hog"], CONNECTIONS, CALLS) as taken:
            await asyncio.sleep(2)
            ended, beside = await honest(client, SECONDS)
    return ended, percentile(alone, 95), percentile(beside, 95), taken


def told(ended: Counter[str], before: float, during: float, taken: Counter[str]) -> str:
    """The outcome in words."""
    words = f"honest: {words_for(ended)}, p95 {ms(during)} beside it, {ms(before)} alone ({during / before:.1f} times)"
    return f"{words}; it: {words_for(taken)}"


@group.row(
    "one caller with 500 calls in flight",
    "on 100 connections, each called again at once, with quotas for a machine of two cores: an honest caller at 5 a "
    "second keeps at least 95 % OK and a p95 of at most 3 times that without it; the audit log tells of refusals in "
    "four lines a second at most",
)
async def one_caller(gateway: Gateway) -> Seen:
    ended, before, during, taken = await beside_a_hog(gateway)
    await asyncio.sleep(2)  # until the line for the rest of the last second is written
    lines = [json.loads(line) for line in gateway.audit.read_text(encoding="utf-8").splitlines()]
    refusals = [line for line in lines if line.get("reason") == "QUOTA_EXCEEDED"]
    counted = sum(line.get("count", 1) for line in refusals)
    # Two limits refuse, each with a line at once and one for the rest of the second.
    audited = 0 < len(refusals) <= 4 * (SECONDS + 6) and counted >= taken["QUOTA_EXCEEDED"]
    ok = ended["OK"] >= ANSWERED * ended.total() and during <= SLOWER * before and taken["OK"] > 0 and audited
    return Seen(ok, f"{told(ended, before, during, taken)}; {counted} refusals in {len(refusals)} lines")


@group.row(
    "one caller with 500 calls in flight, at the shipped quotas",
    "as before, with more for each caller than a machine of two cores can serve: the honest caller keeps at least 95 % "
    "OK; its p95 is told",
)
async def one_caller_as_shipped(gateway: Gateway) -> Seen:
    quotas = gateway.folder / "quotas.yaml"
    quotas.write_text("{}", encoding="utf-8")
    await asyncio.sleep(3)  # until the gateway has read it
    ended, before, during, taken = await beside_a_hog(gateway)
    quotas.write_text(QUOTAS, encoding="utf-8")
    return Seen(ended["OK"] >= ANSWERED * ended.total() and taken["OK"] > 0, told(ended, before, during, taken))
