"""`python -m bench.hops.enrich`: processor time of giving passages their keys, of retriever and engine together.

The passages are those of a collection, repeated with other names in them until there are enough, so that as many keys
are looked at as in a collection of that size.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from prometheus_client import CollectorRegistry

from bench.engine.side import cpu_seconds, memory
from deploy.local.paths import BUILD, ROOT
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.passages import Passages
from services.retriever.relations.enriching import Enriching
from services.retriever.settings import RetrieverSettings
from sluice_cli.indexing.records import SourceDocument
from sluice_cli.indexing.sources import open_source
from sluice_client import Document

FILE = BUILD / "bench" / "enrich.json"
DATA = ROOT.parent / "shared" / "data" / "ir" / "hotpotqa_train100"
MODEL = CollectionModel("synthetic", "synthetic@1", 384, "fp32")
BATCH = 500
_NAME = re.compile(r"\b[A-Z][a-z]{2,}")

app = typer.Typer(add_completion=False)


def passages(documents: Sequence[Document], seed: int = 7) -> Iterator[Passage]:
    """Make passages without end: each time through the documents, names have another ending."""
    chance = np.random.default_rng(seed)
    for copy in count():
        ending = "".join(chr(ord("a") + int(digit)) for digit in str(copy)) if copy else ""
        for document in documents:
            title, text = (
                _NAME.sub(lambda name: name[0] + ending, part)  # noqa: B023  # used at once
                for part in (document.title, document.text)
            )
            vector = chance.normal(size=MODEL.dimension).astype(np.float32)
            yield Passage(f"{document.id}-{copy}", text, title, {}, vector)


async def measure(data: Path, size: int, folder: Path, *, report: bool) -> dict[str, float]:
    """Store passages without keys, give them keys, and return the figures."""
    metrics = RetrieverMetrics(CollectorRegistry())
    store = await open_store(RetrieverSettings(qdrant_path=folder), metrics)
    try:
        collections = Collections(store, Bm25(1.2, 0.6, 128, 2.0))
        await collections.create("bench", MODEL)
        documents = [one for one in open_source(str(data)).read() if isinstance(one, SourceDocument)]
        writer, following = Passages(store, collections, metrics), passages(documents)
        for start in range(0, size, BATCH):
            some = list(islice(following, min(BATCH, size - start)))
            await writer.upsert("bench", some, model_fingerprint=MODEL.fingerprint)
        before, started, held = cpu_seconds(), time.perf_counter(), memory("Anonymous")
        *_, last = [step async for step in Enriching(store, collections).run("bench", report=report)]
        spent = cpu_seconds() - before
        return {
            "passages": size,
            "changed": last.changed,
            "processor_seconds": round(spent, 2),
            "seconds": round(time.perf_counter() - started, 2),
            "passages_a_second_of_processor": round(size / spent),
            "grown_mb": round(memory("Anonymous") - held, 1),
        }
    finally:
        await store.close()


@app.command()
def main(
    data: Annotated[Path, typer.Argument(help="Collection in BEIR's layout.")] = DATA,
    size: Annotated[int, typer.Option(help="Passages.")] = 100_000,
    report: Annotated[bool, typer.Option("--report", help="With the report of the keys.")] = False,
) -> None:
    """Measure, print, and keep the figures."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(data, size, Path(folder) / "qdrant", report=report))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(figures, indent=2) + "\n")
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    app()
