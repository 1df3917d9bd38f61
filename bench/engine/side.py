"""One side of a comparison: the embedded engine of its checkout, behind the retriever's domain, in this process.

It runs under two commits, so it uses only what both have. Every line in and out is JSON: a question such as
`{"do": "filtered", "count": 5}`, answered by figures, until the input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from services.retriever.documents import Passage, Vector
from services.retriever.engines import open_store
from services.retriever.fields import ALL, Equals, Filter
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.passages import Passages
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings

DIMENSION, LATENT, CLUSTERS, BATCH = 384, 32, 2000, 500
VOCABULARY, WORDS = 20_000, 60
_TICKS = os.sysconf("SC_CLK_TCK")
# This process, the engine's, and one that builds.
_PROCESSES_BUILDING = 3


def named(name: str, *modules: str) -> Any:
    """Object of this name, in the first of the modules that this commit has."""
    for module in modules:
        try:
            return getattr(import_module(f"services.retriever.{module}"), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise LookupError(name)


Collections = named("Collections", "collections.catalogue", "collections")
CollectionModel = named("CollectionModel", "collections.descriptions", "collections")


class Corpus:
    """Synthetic passages: vectors in clusters, of few latent dimensions as those of texts are; words by Zipf's law."""

    def __init__(self, seed: int = 7) -> None:
        fixed = np.random.default_rng(1)
        self._spread = fixed.normal(size=(LATENT, DIMENSION)).astype(np.float32) / np.sqrt(LATENT)
        self._centres = fixed.normal(size=(CLUSTERS, LATENT)).astype(np.float32)
        self._chance = np.random.default_rng(seed)
        ranks = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = np.cumsum(ranks / ranks.sum())

    def vectors(self, count: int) -> Vector:
        """Unit vectors near the centres."""
        near = self._centres[self._chance.integers(CLUSTERS, size=count)]
        latent = near + self._chance.normal(size=(count, LATENT)).astype(np.float32) * 0.8
        found = latent @ self._spread + self._chance.normal(size=(count, DIMENSION)).astype(np.float32) * 0.1
        unit: Vector = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def texts(self, count: int, words: int) -> list[str]:
        """Texts of words such as `w17`, frequent ones often."""
        drawn = np.searchsorted(self._shares, self._chance.random((count, words)))
        return [" ".join(f"w{word}" for word in row) for row in drawn]

    def batches(self, count: int) -> Iterator[list[Passage]]:
        """Passages in batches; a tenth of them in each of ten groups."""
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            vectors, texts = self.vectors(size), self.texts(size, WORDS)
            yield [
                Passage(f"p{number}", text, "", {"group": f"g{number % 10}", "year": number}, vector)
                for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), start)
            ]


def family(process: int | None = None) -> list[int]:
    """A process, this one by default, its children, and theirs."""
    process = process or os.getpid()
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    return [process, *(member for child in children for member in family(child))]


def cpu_seconds(process: int | None = None) -> float:
    """Processor time of a family."""
    total = 0
    for member in family(process):
        fields = Path(f"/proc/{member}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory(kind: str) -> float:
    """Megabytes of all of them: `Anonymous`, or `Rss`."""
    total = 0
    for process in family():
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{kind}:"):
                total += int(line.split()[1])
    return total / 1024


class Engine:
    """The engine of this checkout, opened and closed on request."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self._questions = Corpus(seed=11)

    async def open(self) -> dict[str, float]:
        """Open the folder and search once; `base` is the memory before."""
        base = memory("Anonymous")
        before, started = cpu_seconds(), time.perf_counter()
        settings = RetrieverSettings(qdrant_path=self._folder, **self._settings)
        metrics = RetrieverMetrics(CollectorRegistry())
        self.store: Any = await open_store(settings, metrics)
        bm25 = Bm25(1.2, 0.6, 128, 2.0)
        layout = (settings.layout(),) if hasattr(settings, "layout") else ()
        self._model = CollectionModel("synthetic", "synthetic@1", DIMENSION, "fp32")
        self.collections = Collections(self.store, bm25, *layout)
        self.passages = Passages(self.store, self.collections, metrics)
        opened = time.perf_counter() - started
        first = 0.0
        if "bench" in (await self.store.catalogue(None)).aliases:
            await self._hybrid()
            first = time.perf_counter() - started
        return {"open_s": opened, "first_search_s": first, "cpu_s": cpu_seconds() - before, "base_mb": base}

    async def fill(self, count: int) -> dict[str, float]:
        """Store passages."""
        await self.collections.create("bench", self._model)
        spent, started = 0.0, time.perf_counter()
        for batch in Corpus().batches(count):
            before = cpu_seconds()
            await self.passages.upsert("bench", batch, model_fingerprint="synthetic@1")
            spent += cpu_seconds() - before
        return {"cpu_us_each": spent * 1e6 / count, "seconds": time.perf_counter() - started}

    async def hybrid(self, count: int) -> dict[str, float]:
        """Search by vector and words."""
        return await self._measured(count, self._hybrid)

    async def filtered(self, count: int) -> dict[str, float]:
        """Search among a tenth of the passages."""
        return await self._measured(count, lambda: self._hybrid(Filter(must=[Equals("group", "g3")])))

    async def recall(self, count: int) -> dict[str, float]:
        """Share of the exact first hundred that a search by vector finds; exact by numpy over all passages."""
        total = (await self.collections.get("bench")).passage_count
        questions = self._questions.vectors(count)
        best: list[list[tuple[float, str]]] = [[] for _ in range(count)]
        for batch in Corpus().batches(total):
            scores = questions @ np.stack([passage.vector for passage in batch if passage.vector is not None]).T
            for place, row in enumerate(scores):
                best[place] += [(float(row[one]), batch[one].id) for one in np.argpartition(row, -100)[-100:]]
                best[place] = sorted(best[place], reverse=True)[:100]
        shares = []
        for question, wanted in zip(questions, best, strict=True):
            found = await self.passages.search(
                "bench", [QueryVariant("", question)], limit=100, whole=0, model_fingerprint="synthetic@1"
            )
            names = {one.passage.id for one in found.candidates}
            shares.append(len(names & {name for _, name in wanted}) / 100)
        return {"recall": statistics.mean(shares)}

    async def measure_memory(self) -> dict[str, float]:
        """Memory now, in megabytes."""
        return {"anonymous_mb": memory("Anonymous"), "rss_mb": memory("Rss")}

    async def settle(self, seconds: float) -> dict[str, float]:
        """Wait until the engine has built what it builds in the background, in a process of its own."""
        started, quiet = time.perf_counter(), 0
        while quiet < 5 and time.perf_counter() - started < seconds:
            before = cpu_seconds()
            await asyncio.sleep(2)
            # A process that builds takes no processor time while it waits for the disk.
            quiet = quiet + 1 if cpu_seconds() - before < 0.2 and len(family()) < _PROCESSES_BUILDING else 0
        return {"seconds": time.perf_counter() - started}

    async def close(self) -> dict[str, float]:
        """Close the engine."""
        await self.store.close()
        return {}

    async def _hybrid(self, condition: Filter = ALL) -> None:
        asked = QueryVariant(self._questions.texts(1, 6)[0], self._questions.vectors(1)[0])
        await self.passages.search(
            "bench", [asked], limit=50, whole=10, condition=condition, model_fingerprint="synthetic@1"
        )

    async def _measured(self, count: int, one: Callable[[], Awaitable[None]]) -> dict[str, float]:
        before, seconds = cpu_seconds(), []
        for _ in range(count):
            started = time.perf_counter()
            await one()
            seconds.append(time.perf_counter() - started)
        return {"p50_ms": statistics.median(seconds) * 1000, "cpu_ms": (cpu_seconds() - before) * 1000 / count}


async def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    setup = json.loads(sys.stdin.readline())
    engine = Engine(Path(setup["folder"]), **setup["settings"])
    print(json.dumps({}), file=answers, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        answer = await getattr(engine, asked.pop("do"))(**asked)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
