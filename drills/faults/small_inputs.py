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
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.paths import ROOT
from drills.faults.drill import Group, Seen
from drills.faults.replicas import expanding, words_for
from drills.parts.processes import LIGHT, QUIET, StageProcess, reserve, running
from services.chassis.client import StageChannel
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from sluice_client import AsyncClient, Document, Features, SluiceError

group: Group[None] = Group("small inputs")

LONG_SECONDS = 100.0
POISON = "zzpoison"
_CACHE = Path("~/.cache/sluice/models").expanduser()


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
