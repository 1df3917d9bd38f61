"""One caller, connection or pipe that used to stop a stage for everybody."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.paths import ROOT
from drills.faults.drill import Group, Seen, ms
from drills.faults.replicas import expanding, words_for
from drills.parts.processes import LIGHT, QUIET, StageProcess, reserve, running
from services.chassis.client import StageChannel
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice_client import AsyncClient, Chunking, Document, Features, Filter, SluiceError, field

group: Group[None] = Group("small inputs")

LONG_SECONDS = 100.0
POISON = "zzpoison"
FILTERED = 2_000
BOMBS = 2
BOMB_SECONDS = 3.0
LATE_SECONDS = 0.5
REPEATED = (
    *(" ", "\t", "\n", " \n", "\r\n", "\x1c", "\x00", "\u00a0", "\u3000", "\u200b"),
    *("a", "a ", "a. ", "a.", "A", "aB", "a_", "1", "1 ", "1.5 "),
    *(".", "!", "! ", "。", "…", '"', "') ", "(", "<!--", "# "),
    *("é", "e\u0301", "東", "東 ", "한", "ไ", "ب", "😀", "👩\u200d👩", "\u202e"),
)
FORMS = ("{}", "a{}x", "a.{}x", "。{}x", "{} x")
"""With REPEATED, 200 texts."""
SHORT_BYTES, RATIO, MOST_RATIO = 32_768, 8, 12
HEALTH_SECONDS = 1.0
_CACHE = Path("~/.cache/sluice/models").expanduser()


@dataclass
class Health:
    """Answers to questions about a stage's health."""

    asked: int = 0
    failed: int = 0
    """Answers other than SERVING."""
    slowest: float = 0.0


@asynccontextmanager
async def watched(address: str) -> AsyncIterator[Health]:
    """Ask a stage for its health twenty times a second, on a connection of its own."""
    health = Health()

    async def watch() -> None:
        async with StageChannel(address) as channel:
            while True:
                began = time.monotonic()
                health.failed += await channel.health("", deadline=began + 5) is not None
                health.asked += 1
                health.slowest = max(health.slowest, time.monotonic() - began)
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield health
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def poisoned(folder: Path) -> Path:
    """A copy of the default model whose tokenizer has two tokens more than the model has embeddings."""
    known = resolve_model("all-MiniLM-L6-v2", ModelKind.ENCODER, model_dir=None, cache_dir=_CACHE).folder
    copy = folder / "poisoned"
    shutil.copytree(known, copy)
    file = copy / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    first = len(tokenizer["model"]["vocab"])
    plain = dict.fromkeys(("special", "single_word", "lstrip", "rstrip"), False) | {"normalized": True}
    tokenizer["added_tokens"] += [
        {"id": first + place, "content": word} | plain for place, word in enumerate((POISON, f"{POISON}2"))
    ]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return copy


@group.row(
    "poison input",
    "texts that the model cannot compute: 20 searches with one are answered by words alone, no other search is "
    "touched; of 90 documents in batches the 3 bad ones are rejected and 87 are stored",
)
async def poison(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        model = {"EMBEDDING_MODEL": str(poisoned(folder))}
        embedder = await stack.enter_async_context(running("embedder", model))
        retriever = await stack.enter_async_context(running("retriever", {"QDRANT_PATH": str(folder / "qdrant")}))
        addresses = {"EMBEDDER_ADDRESS": embedder.address, "RETRIEVER_ADDRESS": retriever.address}
        gateway = await stack.enter_async_context(running("gateway", addresses))
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        rejected: list[str] = []
        documents = [
            Document(f"d{number}", "", f"words {number} {POISON if number % 30 == 7 else ''}") for number in range(90)
        ]
        stored = await client.index_all(
            documents, collection="poison", on_rejected=lambda document, _error: rejected.append(document.id)
        )
        features = Features(dense=True, lexical=True, rerank=False, expansion=False)
        ended: Counter[str] = Counter()
        for number in range(40):
            bad = number % 2 == 0
            query = f"words {number} {POISON if bad else ''}"
            try:
                answer = await client.search(query, collection="poison", features=features)
            except SluiceError as error:
                ended[f"{error.code.name} {error.reason}"] += 1
                continue
            embed = next(report for report in answer.stages if report.stage == "embed")
            ended[f"{'bad' if bad else 'good'} {embed.outcome} {embed.reason}".strip()] += 1
    right = {"bad failed ROW_FAILED": 20, "good ran": 20}
    ok = stored == 87 and sorted(rejected) == ["d37", "d67", "d7"] and ended == right
    return Seen(ok, f"{stored} stored, {len(rejected)} rejected ({', '.join(rejected)}); searches: {words_for(ended)}")


@group.row(
    "filter bomb",
    f"over {FILTERED:,} documents: searches with 100 conditions or 1,001 values are refused with the field; while "
    f"{BOMBS} callers send the largest filters that are taken, with deadlines of {BOMB_SECONDS:g} s, none of them ends "
    "later, and every plain search of somebody else is answered",
)
async def filter_bomb(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        light = LIGHT | {"QDRANT_PATH": str(Path(folder) / "qdrant")}
        stages = {name: await stack.enter_async_context(running(name, light)) for name in ("embedder", "retriever")}
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        gateway = await stack.enter_async_context(running("gateway", addresses))
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        documents = (Document(f"d{number}", "", f"word {number}", {"n": number % 500}) for number in range(FILTERED))
        await client.index_all(documents, collection="filters", timeout=60)

        async def search(bomb: Filter | None) -> tuple[str, float]:
            began = time.monotonic()
            try:
                await client.search("word", collection="filters", filter=bomb, timeout=BOMB_SECONDS if bomb else None)
            except SluiceError as error:
                return f"{error.code.name} {error.reason} {error.field}".strip(), time.monotonic() - began
            return "OK", time.monotonic() - began

        too_large = [
            Filter(should=[field("n") == 10_000 + number for number in range(100)]),
            Filter(must=[field("n").any_of(*range(part, part + 143)) for part in range(0, 1_001, 143)]),
        ]
        refused = [(await search(bomb))[0] for bomb in too_large]
        largest = Filter(should=[field("n").any_of(*range(10_000, 10_015)) for _ in range(64)])
        plain: list[tuple[str, float]] = []
        bombs: list[tuple[str, float]] = []
        end = time.monotonic() + 4 * BOMB_SECONDS

        async def again(bomb: Filter | None, ended: list[tuple[str, float]]) -> None:
            while time.monotonic() < end:
                ended.append(await search(bomb))
                await asyncio.sleep(0 if bomb else 0.1)

        await asyncio.gather(again(None, plain), *(again(largest, bombs) for _ in range(BOMBS)))
    latest = max(took for _outcome, took in bombs)
    beside = Counter(outcome for outcome, _took in plain)
    ok = refused == ["INVALID_ARGUMENT TOO_MANY_CONDITIONS filter", "INVALID_ARGUMENT TOO_MANY_VALUES filter"]
    ok = ok and set(beside) == {"OK"} and latest < BOMB_SECONDS + LATE_SECONDS
    return Seen(
        ok, f"{', '.join(refused)}; bombs: {words_for(Counter(outcome for outcome, _took in bombs))}, the slowest "
        f"{latest:.1f} s; beside them: {words_for(beside)}, the slowest {ms(max(took for _outcome, took in plain))}"
    )  # fmt: skip


@group.row(
    "blanks",
    f"a document of 42 kB with 40,000 blanks, and {len(FORMS) * len(REPEATED)} texts of one character or a few, are "
    f"cut: {RATIO} times the length takes at most {MOST_RATIO} times the processor's time, also from 1 to 8 MiB; "
    "health answers each time within 1 s, and a question beside the blanks is answered",
    longest_seconds=1800.0,
)
async def blanks(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        embedder = await stack.enter_async_context(running("embedder"))
        retriever = await stack.enter_async_context(running("retriever", {"QDRANT_PATH": str(Path(folder) / "qdrant")}))
        addresses = {"EMBEDDER_ADDRESS": embedder.address, "RETRIEVER_ADDRESS": retriever.address}
        gateway = await stack.enter_async_context(running("gateway", addresses))
        client = await stack.enter_async_context(AsyncClient(gateway.address))
        channel = await stack.enter_async_context(StageChannel(embedder.address))
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel.channel)

        async def seconds_for(text: str) -> float:
            began = embedder.processor_seconds
            request = embedder_pb2.SplitTextsRequest(texts=[embedder_pb2.TitledText(text=text)])
            await channel.call(stub.SplitTexts, request, deadline=time.monotonic() + 300)
            return embedder.processor_seconds - began

        async def ratio_for(form: str, repeated: str, size: int) -> float:
            short, long = (
                form.format(repeated * (length // len(repeated.encode()))) for length in (size, RATIO * size)
            )
            # Less than a twentieth of a second is the clock's own steps and the health checks beside it.
            return await seconds_for(long) / max(await seconds_for(short), 0.05)

        await client.index([Document("first", "", "words")], collection="blanks")
        async with watched(embedder.address) as health:
            text = "w " * 400 + "w" + " " * 40_000 + "w " * 600
            storing = client.index([Document("blank", "", text)], collection="blanks", chunking=Chunking(256))
            asking = client.search("beside", collection="blanks", features=Features(lexical=False))
            stored, _answer = await asyncio.gather(storing, asking)
            ratios = {
                (form, repeated): await ratio_for(form, repeated, SHORT_BYTES)
                for form in FORMS
                for repeated in REPEATED
            }
            long = [await ratio_for("{}", repeated, 2**20) for repeated in (" ", "a", "a ", "! ")]
    worst = max(ratios, key=ratios.__getitem__)
    ok = stored.indexed_count == 1 and max(ratios[worst], *long) <= MOST_RATIO
    ok = ok and not health.failed and health.slowest < HEALTH_SECONDS
    return Seen(
        ok, f"{stored.passage_count} chunks; {len(ratios)} texts, the largest ratio {ratios[worst]:.1f} ({worst!r}), "
        f"from 1 to 8 MiB {max(long):.1f}; health {health.asked} times, {health.failed} not SERVING, slowest "
        f"{ms(health.slowest)}"
    )  # fmt: skip


@group.row(
    "unread log pipe",
    "a stage that logs every call to a pipe that nobody reads answers 3,000 calls and health, and ends on SIGTERM",
)
async def unread_log(_nothing: None) -> Seen:
    holder = reserve("127.0.0.1")
    port = holder.getsockname()[1]
    unread, theirs = os.pipe()
    variables: Mapping[str, str] = {**os.environ, **QUIET, **LIGHT, "LOG_LEVEL": "INFO", "GRPC_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.expander", cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=theirs
    )
    ended: Counter[str] = Counter()
    try:
        async with StageChannel(f"127.0.0.1:{port}") as channel:
            while await channel.health("", deadline=time.monotonic() + 1) is not None:
                await asyncio.sleep(0.1)
            call = expanding(channel)
            for _ in range(150):
                ended.update(await asyncio.gather(*(call() for _ in range(20))))
            problem = await channel.health("", deadline=time.monotonic() + 5)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        status = await asyncio.wait_for(process.wait(), 30)
        took = time.monotonic() - told
    finally:
        if process.returncode is None:
            process.kill()
        holder.close()
        os.close(unread)
        os.close(theirs)
    ok = set(ended) == {"OK"} and problem is None and status == 0
    return Seen(ok, f"{words_for(ended)}; health {problem or 'SERVING'}; exit code {status} {took:.1f} s after SIGTERM")


@group.row(
    "connection age with a 100 s call",
    f"a call of {LONG_SECONDS:g} s on a connection that may get 10 s old ends with its answer",
    longest_seconds=300.0,
)
async def long_call(_nothing: None) -> Seen:
    async with AsyncExitStack() as stack:
        slow: StageProcess = await stack.enter_async_context(
            running("slow", {"MAX_CONNECTION_AGE_SECONDS": "10"}, module="drills.parts.slow_stage")
        )
        channel = await stack.enter_async_context(StageChannel(slow.address))
        call = expanding(channel, f"{LONG_SECONDS:g}", LONG_SECONDS + 60)
        began = time.monotonic()
        ended = await call()
        took = time.monotonic() - began
    return Seen(ended == "OK" and took >= LONG_SECONDS, f"{ended} after {took:.0f} s")
