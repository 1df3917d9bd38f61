"""`python -m drills.copying`: embedded -> Qdrant's protocol -> embedded, under load; build/copying.json.

Three local stacks of real processes: two over the embedded engine, one over `tests.qdrant_server`. While a copy runs,
one caller searches the side that it reads from without a pause, and another one stores and deletes documents there for
some seconds. At the end both sides are compared passage by passage: ids, revisions, texts, metadata and vectors.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.local import LocalStack
from deploy.local.paths import BUILD, ROOT, shown
from sluice_client import AsyncClient, AsyncTransferClient, Document, SluiceError, copy_collection

RESULT = BUILD / "copying.json"
COLLECTION = "documents"
Vector = npt.NDArray[np.float32]
_WORDS = [
    "river",
    "stone",
    "market",
    "engine",
    "letter",
    "winter",
    "garden",
    "signal",
    "bridge",
    "copper",
    "island",
    "window",
]
_WRITE_SECONDS = 20.0
_QUIET = {"EMBEDDING_MODEL": "", "LOG_LEVEL": "WARNING", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}


@dataclass(frozen=True, slots=True)
class Row:
    """Outcome of one copy."""

    name: str
    passages: int
    equal: bool
    differing: int
    searches: int
    failed_searches: int
    reasons: dict[str, int]
    """Reasons of the failures."""
    written: int
    """Documents stored or deleted at the source meanwhile."""
    seconds: float
    ok: bool


@contextmanager
def protocol_server() -> Iterator[dict[str, str]]:
    """Run Qdrant's protocol in a process of its own; the variables by which a retriever finds it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.searchcost.engine"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdin and process.stdout
        port = int(process.stdout.readline())
        yield {"QDRANT_URL": f"http://127.0.0.1:{port}", "QDRANT_GRPC_PORT": str(port)}
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def document(number: int, salt: str = "") -> Document:
    """A document of its own words."""
    words = [_WORDS[(number * (place + 3) + place) % len(_WORDS)] for place in range(12)]
    return Document(
        f"d{number}", f"number {number}", " ".join([*words, salt, str(number)]), {"group": f"g{number % 10}"}
    )


async def contents(address: str, version: str) -> dict[str, tuple[str, Vector]]:
    """All passages of a version, by id: a digest of what has to be equal, and the vector."""
    found: dict[str, tuple[str, Vector]] = {}
    async with AsyncTransferClient(address) as client, aclosing(client.keys(version)) as keys:
        ids = [key.id async for key in keys]
        while ids:
            records, read = await client.read(version, ids[:1000])
            ids = ids[read:]
            for record in records:
                kept = record.passage.SerializeToString(deterministic=True) + record.revision.encode()
                found[record.passage.id] = (hashlib.sha256(kept).hexdigest(), np.frombuffer(record.vector, "<f4"))
    return found


def differing(one: dict[str, tuple[str, Vector]], other: dict[str, tuple[str, Vector]]) -> int:
    """Number of passages that differ; lengths of vectors are made 1 again, which may change their last bit."""
    return sum(
        name not in one
        or name not in other
        or one[name][0] != other[name][0]
        or not np.allclose(one[name][1], other[name][1], atol=1e-6)
        for name in one.keys() | other.keys()
    )


class Load:
    """Searches and writes at one side, until they are stopped."""

    def __init__(self, client: AsyncClient, passages: int) -> None:
        self._client = client
        self._passages = passages
        self.searches = self.written = 0
        self.reasons: Counter[str] = Counter()
        self.over = asyncio.Event()

    async def search(self) -> None:
        """Ask one question after the other."""
        while not self.over.is_set():
            self.searches += 1
            try:
                answer = await self._client.search(f"river stone {self.searches % 100}", collection=COLLECTION)
                if not answer.results:
                    self.reasons["NO_RESULTS"] += 1
            except SluiceError as error:
                self.reasons[error.reason] += 1

    async def write(self) -> None:
        """Store and delete documents for some seconds."""
        end, wave = time.monotonic() + _WRITE_SECONDS, 0
        while time.monotonic() < end and not self.over.is_set():
            wave += 1
            numbers = [(wave * 7919 + place * 101) % self._passages for place in range(20)]
            stored = [document(number, f"wave {wave}") for number in dict.fromkeys(numbers)]
            await self._client.index(stored, collection=COLLECTION)
            await self._client.delete([f"d{(wave * 6007) % self._passages}"], collection=COLLECTION)
            self.written += len(stored) + 1
            await asyncio.sleep(0.05)


async def copied(name: str, source: LocalStack, target: LocalStack, passages: int, progress: Progress) -> Row:
    """Copy from one stack to another under load, and compare both."""
    started = time.monotonic()
    here, there = source.address("gateway"), target.address("gateway")
    async with AsyncClient(here, timeout=30) as client:
        load = Load(client, passages)
        searching, writing = asyncio.create_task(load.search()), asyncio.create_task(load.write())
        bar = progress.add_task(name, total=passages)
        async with AsyncTransferClient(here) as origin, AsyncTransferClient(there) as end:
            await asyncio.sleep(0.5)
            async with aclosing(copy_collection(origin, end, COLLECTION)) as steps:
                async for step in steps:
                    progress.update(bar, completed=step.done_count, total=step.total_count)
                    last = step
        load.over.set()
        await searching
        await writing
        seconds = time.monotonic() - started
        assert last.switched is not None
        one, other = await contents(here, await live(client)), await contents(there, last.switched.live.version)
    wrong = differing(one, other)
    failed = load.reasons.total()
    ok = last.equal and not wrong and not failed and len(other) == len(one)
    return Row(
        name,
        len(other),
        last.equal,
        wrong,
        load.searches,
        failed,
        dict(load.reasons),
        load.written,
        round(seconds, 1),
        ok,
    )


async def live(client: AsyncClient) -> str:
    """Name of the live version."""
    async for listed in client.list_collections(COLLECTION):
        if listed.version.live:
            return listed.version.version
    raise LookupError(COLLECTION)


async def filled(stack: LocalStack, passages: int, progress: Progress) -> None:
    """Store the documents."""
    bar = progress.add_task("storing", total=passages)

    async def documents() -> AsyncIterator[Document]:
        for number in range(passages):
            progress.update(bar, completed=number + 1)
            yield document(number)

    async with AsyncClient(stack.address("gateway"), timeout=120) as client:
        await client.index_all(documents(), collection=COLLECTION)


async def drill(passages: int, progress: Progress) -> list[Row]:
    """Copy there and back."""
    rows = []
    with protocol_server() as qdrant:
        async with AsyncExitStack() as exits:
            stacks = []
            for name, more in (("copying-a", {}), ("copying-b", qdrant), ("copying-c", {})):
                data = BUILD / "data" / name
                shutil.rmtree(data, ignore_errors=True)
                stack = LocalStack(name=name, environment={**_QUIET, **more}, data=data)
                stacks.append(await exits.enter_async_context(stack))
            first, second, third = stacks
            await filled(first, passages, progress)
            rows.append(await copied("embedded -> Qdrant's protocol", first, second, passages, progress))
            rows.append(await copied("Qdrant's protocol -> embedded", second, third, passages, progress))
    return rows


def main(
    passages: Annotated[int, typer.Option(min=1000, help="Documents, of one passage each.")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Copy a collection from the embedded engine to Qdrant's protocol and back, under load.

    Examples:  python -m drills.copying  ·  python -m drills.copying --passages 5000
    """
    with Progress(console=Console(stderr=True)) as progress:
        rows = asyncio.run(drill(passages, progress))
    result = {"command": f"python -m drills.copying --passages {passages}", "rows": [asdict(row) for row in rows]}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        table = Table("copy", "passages", "differing", "searches", "failed", "written", "seconds", "")
        for row in rows:
            table.add_row(
                row.name, f"{row.passages:,}", str(row.differing), str(row.searches), str(row.failed_searches),
                str(row.written), str(row.seconds), "[green]ok[/]" if row.ok else "[red]NOT OK[/]",
            )  # fmt: skip
        Console().print(table)
    Console(stderr=True).print(f"Written to {shown(RESULT)}.")
    sys.exit(0 if all(row.ok for row in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
