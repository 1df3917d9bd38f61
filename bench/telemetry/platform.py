"""Whole stacks side by side that differ in telemetry alone. The one that is not asked idles."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.speed.stages import HOST, reserved_port, spawned
from bench.speed.workload import Workload
from deploy.local.paths import BUILD
from deploy.local.stack import STAGES, LocalStack
from sluice_client import AsyncClient, Document

PASSAGES = 200
SCRAPE_SECONDS = 5.0
"""Three times as often as Prometheus scrapes by default."""
PRODUCTION_SHARE = 0.1
"""Of traces that are recorded, as deploy/profiles/production.env has it."""
_BARE = Path(__file__).parent / "bare"
_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET = {
    "LOG_LEVEL": "WARNING",
    # Every question is to cost what a new one costs.
    "CACHE_ENTRIES": "0",
    "EXPANSION_STRATEGY": "synonyms",
}


@dataclass(frozen=True)
class Side:
    """A stack with a certain telemetry."""

    name: str
    stack: LocalStack

    def cpu_seconds(self) -> float:
        """Processor time of its processes since they began (proc(5): utime and stime)."""
        ticks = 0
        for stage in STAGES:
            fields = Path(f"/proc/{self.stack.pid(stage)}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS


@contextmanager
def sink() -> Iterator[str]:
    """A collector in a process of its own; its endpoint."""
    with reserved_port() as port:
        command = [sys.executable, "-m", "bench.telemetry.sink", f"{HOST}:{port}"]
        with spawned("telemetry-sink", command, {}):
            yield f"http://{HOST}:{port}"


@asynccontextmanager
async def sides(collector: str, on_serving: Callable[[str], None]) -> AsyncIterator[list[Side]]:
    """Without telemetry, with it as in production, and with every trace recorded."""
    async with AsyncExitStack() as stack:
        telemetry = {
            "off": {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "PYTHONPATH": str(_BARE)},
            "production": {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
                "OTEL_TRACES_SAMPLER_ARG": str(PRODUCTION_SHARE),
            },
            "everything": {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER_ARG": "1.0"},
        }
        started = []
        for name, environment in telemetry.items():
            data = BUILD / "data" / f"telemetry-{name}"
            shutil.rmtree(data, ignore_errors=True)
            local = LocalStack(
                name=f"telemetry-{name}",
                environment={**_QUIET, **environment},
                data=data,
                on_serving=lambda stage, name=name: on_serving(f"{name}: {stage}"),  # type: ignore[misc]
            )
            started.append(Side(name, await stack.enter_async_context(local)))
            await _store(local)
        scraping = asyncio.create_task(_scrape([side for side in started if side.name != "off"]))
        stack.callback(scraping.cancel)
        yield started


async def _store(local: LocalStack) -> None:
    texts = Workload(0).mixed(PASSAGES)
    async with AsyncClient(local.address("gateway")) as client:
        await client.index_all([Document(str(number), "", text.text) for number, text in enumerate(texts)])


async def _scrape(scraped: list[Side]) -> None:
    """As Prometheus does, exemplars too."""

    def scrape(url: str) -> None:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=accept), timeout=SCRAPE_SECONDS) as page:
            page.read()

    while True:
        for side in scraped:
            for stage in STAGES:
                await asyncio.to_thread(scrape, side.stack.metrics_url(stage))
        await asyncio.sleep(SCRAPE_SECONDS)
