"""`python -m bench.engine.late [PASSAGES]`: what token vectors cost the store, beside the same passages without them.

Synthetic passages of 384 dimensions, 60 words and 70 token vectors of 129 bytes. Searches with and without a comparison
of 50 candidates by 32 token vectors go in turn, warm; before others, the kernel has dropped the pages of the files.
Processor time is that of the engine's process as well. `--url` measures a server: all but disk and cold pages.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from bench.engine.side import DIMENSION, Corpus, cpu_seconds
from deploy.local.paths import BUILD, shown
from services.late.codes import Codes, encode
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.engines import open_store
from services.retriever.engines.edge.catalogue import FOLDER
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.passages import Passages
from services.retriever.search.searches import LateQuery, QueryVariant
from services.retriever.settings import RetrieverSettings
from services.retriever.store import PassageStore, point_id

RESULT = BUILD / "bench" / "engine-late.json"
ROWS, QUERY_ROWS, TOKEN_VALUES, CANDIDATES = 70, 32, 128, 50
MODEL = CollectionModel("synthetic", "synthetic@1", DIMENSION, "fp32")
TOKENS = CollectionModel("synthetic tokens", "tokens@1", TOKEN_VALUES + 1, "fp32")
WITH, WITHOUT = "late", "plain"
_ROUNDS, _COLD = 100, 30
_TOKENS_MADE = 1000  # more take long to make, and say nothing more


class Late:
    """Two collections of the same passages, one with token vectors."""

    def __init__(self, store: PassageStore, passages: int) -> None:
        metrics = RetrieverMetrics(CollectorRegistry())
        self.store = store
        self.collections = Collections(store, Bm25(1.2, 0.6, 128, 2.0))
        self.passages = Passages(store, self.collections, metrics)
        self._count = passages
        self._chance = np.random.default_rng(5)
        self._questions = Corpus(seed=11)
        self.query = self._tokens(QUERY_ROWS)

    async def fill(self) -> dict[str, float]:
        """Store the passages in both; processor time of each."""
        made = [self._tokens(ROWS) for _ in range(min(self._count, _TOKENS_MADE))]
        figures = {}
        for name in (WITHOUT, WITH):
            fingerprint = TOKENS.fingerprint if name == WITH else ""
            await self.collections.create(name, MODEL, token_model=TOKENS if name == WITH else None)
            spent = 0.0
            for batch in Corpus().batches(self._count):
                passages = batch
                if name == WITH:
                    passages = [replace(one, tokens=made[number % len(made)]) for number, one in enumerate(batch)]
                before = cpu_seconds()
                await self.passages.upsert(
                    name, passages, model_fingerprint=MODEL.fingerprint, token_model_fingerprint=fingerprint
                )
                spent += cpu_seconds() - before
            figures[f"{name}_upsert_cpu_us"] = spent / self._count * 1e6
        return figures

    async def searched(self) -> dict[str, float]:
        """Hybrid searches with and without a comparison of the candidates, in turn."""
        late = LateQuery(self.query, TOKENS.fingerprint, CANDIDATES)

        async def search(late: LateQuery | None) -> None:
            [vector], [text] = self._questions.vectors(1), self._questions.texts(1, 6)
            variants = [QueryVariant(text, vector)]
            await self.passages.search(WITH, variants, limit=CANDIDATES, model_fingerprint=MODEL.fingerprint, late=late)

        for _ in range(10):
            await search(late)
        plain, compared = await in_turn(lambda: search(None), lambda: search(late))
        added = statistics.median(two - one for one, two in zip(plain, compared, strict=True))
        return {
            "hybrid_p50_ms": statistics.median(plain),
            "hybrid_late_p50_ms": statistics.median(compared),
            "hybrid_late_p99_ms": float(np.percentile(compared, 99)),
            "added_p50_ms": added,
        }

    async def compared(self) -> dict[str, float]:
        """Comparisons alone, of 50 passages by chance."""
        before = cpu_seconds()
        taken = [await timed(self._compare) for _ in range(_ROUNDS)]
        spent = (cpu_seconds() - before) / _ROUNDS * 1e3
        return {
            "compare_p50_ms": statistics.median(taken),
            "compare_p99_ms": float(np.percentile(taken, 99)),
            "compare_cpu_ms": spent,
        }

    async def compared_cold(self, folder: Path) -> dict[str, float]:
        """The same, after the kernel has dropped the pages of the folder that nobody has mapped and changed."""
        taken = []
        for _ in range(_COLD):
            forget(folder)
            taken.append(await timed(self._compare))
        return {"cold_p50_ms": statistics.median(taken), "cold_worst_ms": max(taken)}

    async def _compare(self) -> None:
        some = self._chance.choice(self._count, CANDIDATES, replace=False)
        version = f"{WITH}-v1"
        found = await self.store.compare(version, self.query, [point_id(f"p{number}") for number in some], None)
        assert len(found) == CANDIDATES

    def _tokens(self, rows: int) -> Codes:
        return encode(self._chance.normal(size=(rows, TOKEN_VALUES)).astype(np.float32))


async def timed(call: Callable[[], Awaitable[None]]) -> float:
    """Milliseconds of a call."""
    started = time.perf_counter()
    await call()
    return (time.perf_counter() - started) * 1e3


async def in_turn(*calls: Callable[[], Awaitable[None]]) -> list[list[float]]:
    """Milliseconds of calls that take turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for number, call in enumerate(calls):
            taken[number].append(await timed(call))
    return taken


def forget(folder: Path) -> None:
    """Let the kernel drop what it holds of these files."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def on_disk(folder: Path) -> int:
    """Bytes that the files of a version take: they have holes. The log of what was written is emptied again."""
    files = [path for path in folder.rglob("*") if path.is_file() and "wal" not in path.parts]
    return sum(path.stat().st_blocks * 512 for path in files)


async def measured(passages: int, url: str) -> dict[str, float]:
    """All figures."""
    folder = BUILD / "data" / "engine-late"
    shutil.rmtree(folder, ignore_errors=True)
    settings = RetrieverSettings(qdrant_url=url) if url else RetrieverSettings(qdrant_path=folder)
    figures: dict[str, float] = {"passages": passages}
    store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
    figures |= await Late(store, passages).fill()
    await store.close()
    if not url:
        sizes = {name: on_disk(folder / FOLDER / f"{name}-v1") / passages for name in (WITH, WITHOUT)}
        figures |= {
            "disk_bytes_a_passage": sizes[WITH],
            "of_them_token_vectors": sizes[WITH] - sizes[WITHOUT],
        }
    store = await open_store(settings, RetrieverMetrics(CollectorRegistry()))
    late = Late(store, passages)
    if not url:
        figures |= await late.compared_cold(folder)
    figures |= await late.compared()
    figures |= await late.searched()
    for name in (WITH, WITHOUT):
        await late.collections.delete(name)
    await store.close()
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def main(
    passages: Annotated[int, typer.Argument(help="Number of passages.")] = 20_000,
    url: Annotated[str, typer.Option(help="Address of a Qdrant server instead of the embedded engine.")] = "",
) -> None:
    """Measure, print, and write build/bench/engine-late.json.

    Examples:  python -m bench.engine.late  ·  python -m bench.engine.late 200000
    """
    figures: dict[str, Any] = asyncio.run(measured(passages, url))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.1f}")
    console = Console()
    console.print(table)
    console.print(f"written to {shown(RESULT)}")


if __name__ == "__main__":
    typer.run(main)
