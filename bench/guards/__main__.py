"""`python -m bench.guards`: what identity, policies, quotas and the audit log cost, in pairs.

Two gateways stand before the same embedder and retriever, and two embedders side by side. Of each, one asks nobody for
a credential and writes no audit log; the other asks for a key, decides by the default policies, counts the quotas of
its caller and tenant, tokens too, and writes a chained line for every search. Both are asked the same in turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.pairs.__main__ import WORDS_A_QUESTION, texts
from bench.pairs.side import cpu_seconds
from bench.speed.load import Call, Endpoint, LoadProcess
from bench.speed.session import EMBED, embed_query
from bench.speed.stages import Server, serving
from bench.speed.workload import Workload
from deploy.local.paths import BUILD, shown
from sluice_client import AsyncClient, Document
from sluice_statistics.intervals import bootstrap

RESULT = BUILD / "bench" / "guards.json"
MOST_SEARCH, LEAST_EMBED = 1.02, 0.98
PASSAGES, CALLERS = 1000, 32
_CALLS_A_SECOND = 1500
_QUIET = {"CACHE_ENTRIES": "0"}
_QUOTAS = """
identities:
  "key:bench": &most {calls_per_second: 1000000, concurrent_calls: 1000, tokens_per_second: 100000000}
tenants:
  bench: *most
"""


@dataclass(frozen=True)
class Pair:
    """One stage without guards, and one with them."""

    open: Server
    guarded: Server

    def turns(self, number: int) -> list[tuple[str, Server]]:
        """Both, in an order that changes from round to round."""
        sides = [("open", self.open), ("guarded", self.guarded)]
        return sides if number % 2 else sides[::-1]


@contextmanager
def stages(folder: Path, key: str, model: str) -> Iterator[tuple[Pair, Pair]]:
    """Two gateways, and two embedders."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    row = f'[[key]]\nname = "bench"\nsha256 = "{digest}"\nroles = ["writer", "gateway"]\ntenant = "bench"\n'
    (folder / "callers.toml").write_text(f'{row}collections = ["*"]\n', encoding="utf-8")
    (folder / "quotas.yaml").write_text(_QUOTAS, encoding="utf-8")
    guards = {
        "AUTH_CALLERS": str(folder / "callers.toml"),
        "AUDIT_DIR": str(folder / "audit"),
        "AUDIT_CHAIN": "1",
        "AUDIT_SEARCHES": "1",
        "AUDIT_KEY": "bench",
    }
    embedding = _QUIET | {"EMBEDDING_MODEL": model}
    with ExitStack() as stack:
        embedders = Pair(
            stack.enter_context(serving("embedder", embedding)),
            stack.enter_context(serving("embedder", embedding | guards)),
        )
        retriever = stack.enter_context(serving("retriever", _QUIET | {"QDRANT_PATH": str(folder / "qdrant")}))
        behind = _QUIET | {"EMBEDDER_ADDRESS": embedders.open.address, "RETRIEVER_ADDRESS": retriever.address}
        gateways = Pair(
            stack.enter_context(serving("gateway", behind)),
            stack.enter_context(serving("gateway", behind | guards | {"QUOTA_FILE": str(folder / "quotas.yaml")})),
        )
        yield gateways, embedders


async def searches(gateways: Pair, key: str, rounds: int, each: int, console: Console) -> dict[str, list[Any]]:
    """Medians of searches, and processor time of the gateway, in milliseconds, by side and round."""
    windows: dict[str, list[Any]] = {"open": [], "guarded": []}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(AsyncClient(server.address, token=key, timeout=30))
            for name, server in gateways.turns(1)
        }
        await clients["open"].index_all(
            Document(str(number), "", text) for number, text in enumerate(texts(0, PASSAGES, 60))
        )
        for number in track(range(rounds + 1), "Searches", console=console):
            questions = texts(number + 1, each, WORDS_A_QUESTION)
            seconds: dict[str, list[float]] = {"open": [], "guarded": []}
            used = {name: -cpu_seconds(server.process.pid) for name, server in gateways.turns(1)}
            for place, question in enumerate(questions):
                for name, _server in gateways.turns(place):
                    started = time.perf_counter()
                    await clients[name].search(question)
                    seconds[name].append(time.perf_counter() - started)
            for name, server in gateways.turns(1):
                used[name] += cpu_seconds(server.process.pid)
                if number:  # the first round warms up
                    median, cpu = statistics.median(seconds[name]), used[name] / each
                    windows[name].append({"p50": median * 1000, "processor time of the gateway": cpu * 1000})
    return windows


def embeddings(embedders: Pair, key: str, rounds: int, seconds: float, console: Console) -> dict[str, list[Any]]:
    """Texts a second, by side and round."""
    windows: dict[str, list[Any]] = {"open": [], "guarded": []}
    metadata = (("authorization", f"Bearer {key}"),)
    with LoadProcess() as clients:
        for number in track(range(rounds + 1), "Embeddings", console=console):
            calls = [
                Call(embed_query(one.text), 1) for one in Workload(number).short(round(_CALLS_A_SECOND * (seconds + 1)))
            ]
            for name, server in embedders.turns(number):
                endpoint = Endpoint("grpc", server.address, EMBED, metadata)
                report = clients.closed_loop(endpoint, calls, concurrency=CALLERS, seconds=seconds).result()
                if set(report.codes()) != {"OK"}:
                    sys.exit(f"embedding ended with {report.codes()}; read build/bench/logs")
                if number:
                    windows[name].append({"texts a second": report.rate()})
    return windows


def rows(
    what: str, windows: dict[str, list[dict[str, float]]], bound: float, *, most: bool
) -> Iterator[dict[str, Any]]:
    """Figures with guards over those without: the median over rounds, with its interval."""
    for figure in windows["open"][0]:
        of = {name: [window[figure] for window in each] for name, each in windows.items()}
        ratio = bootstrap([one / other for one, other in zip(of["guarded"], of["open"], strict=True)])
        bounded = figure != "processor time of the gateway"
        yield {
            "name": f"{what}: {figure}, guarded over open",
            "value": round(ratio.value, 4),
            "interval": [round(ratio.low, 4), round(ratio.high, 4)],
            "bound": bound if bounded else None,
            "ok": (ratio.value <= bound if most else ratio.value >= bound) if bounded else None,
            **{name: round(statistics.median(each), 3) for name, each in of.items()},
        }


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; in each, both sides take a turn.")] = 20,
    each: Annotated[int, typer.Option("--searches", min=10, help="Searches of each side in each round.")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of embedding of each side in each round.")] = 6.0,
    model: Annotated[str, typer.Option(help="EMBEDDING_MODEL; empty for pseudo-embeddings.")] = "all-MiniLM-L6-v2",
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Measure what guards cost. Leave the machine alone meanwhile. Writes build/bench/guards.json.

    Exit code 1 if the p50 of a search is more than 2 % above that without guards, or the embedder does less than .98.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = Console(stderr=True)
    key = f"sluice_{secrets.token_urlsafe(32)}"
    with TemporaryDirectory() as folder, stages(Path(folder), key, model) as (gateways, embedders):
        asked = asyncio.run(searches(gateways, key, rounds, each, console))
        embedded = embeddings(embedders, key, rounds, seconds, console)
    made = [*rows("search", asked, MOST_SEARCH, most=True), *rows("embed@c32", embedded, LEAST_EMBED, most=False)]
    command = f"python -m bench.guards --rounds {rounds} --searches {each} --seconds {seconds:g} --model '{model}'"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    kept = {"command": command, "rows": made, "windows": {"search": asked, "embed": embedded}}
    RESULT.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        Console(width=None if console.is_terminal else 130).print(_table(made))
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(1 if any(row["ok"] is False for row in made) else 0)


def _table(made: Sequence[dict[str, Any]]) -> Table:
    table = Table("", "guarded", "open", "ratio", "interval", "")
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}
    for row in made:
        low, high = row["interval"]
        table.add_row(
            row["name"], f"{row['guarded']:.2f}", f"{row['open']:.2f}", f"{row['value']:.3f}",
            f"{low:.3f} to {high:.3f}", marks[row["ok"]],
        )  # fmt: skip
    return table


if __name__ == "__main__":
    typer.run(main)
