"""`python -m bench.interleaving`: what an answer of two arms costs over that of the slower one, through the services.

Both arms alone and the interleaved answer are asked the same questions in turn, so that all see the same machine. Then
every question of the collection is asked of an experiment whose arms are equal, and without one.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.interleaving.control import Control, control
from bench.quality.beir import Dataset, load
from bench.rerank.measuring import processor
from bench.rerank.platform import Platform, platform
from bench.rollout.__main__ import gateway
from bench.speed.cli import AsJson, progress_bars, wide_console
from deploy.local.paths import BUILD, ROOT, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from services.experiment.flags import FlagValue, Overrides
from sluice_client import Answer, AsyncClient, NotStored, Outcome, SluiceError, features
from sluice_statistics.intervals import bootstrap

RESULT = BUILD / "bench" / "interleaving.json"
DATA = ROOT.parent / "shared" / "data" / "ir" / "cranfield"
MOST_RATIO = 1.15
SECONDS = 30.0
Flags = Mapping[str, FlagValue]

HYBRID: Flags = {"dense": True, "lexical": True, "expansion": False, "rerank": False, "multi_hop": False}
LATE: Flags = {**HYBRID, "rerank": True, "rerank_method": "late", "rerank_candidate_count": 50}
DENSE: Flags = {**HYBRID, "lexical": False}
PAIRS: Mapping[str, tuple[Flags, Flags]] = {"hybrid | hybrid + late": (HYBRID, LATE), "dense | hybrid": (DENSE, HYBRID)}
EQUAL: Mapping[str, Flags] = {"hybrid": HYBRID, "hybrid + late": LATE}
ARMS = ("control", "treatment")
BOTH = "interleaved"
TURNS = (*ARMS, BOTH)
BEHIND = ("embedder", "retriever")


@dataclass(frozen=True, slots=True)
class Asking:
    """A gateway that follows a control plane, the processes behind it, and a collection."""

    client: AsyncClient
    control: Control
    processes: Mapping[str, Sequence[int]]
    """Process ids of each stage that takes part."""
    collection: str

    def processor_seconds(self) -> dict[str, float]:
        """Processor time of each stage so far."""
        return {stage: processor_seconds(pids) for stage, pids in self.processes.items()}

    async def interleave(self, first: Flags, second: Flags) -> None:
        """Have users of the gateway get results of two arms."""
        flags = [(name, Overrides(**values)) for name, values in zip(ARMS, (first, second), strict=True)]
        version = self.control.interleave(flags)
        while (await self.search("ready?", None)).snapshot_version != version:
            pass

    async def search(self, text: str, flags: Flags | None) -> Answer:
        """Answer with these flags, or as a user of the experiment."""
        asked: dict[str, Any] = {"user_id": secrets.token_hex(8)} if flags is None else {"features": features(**flags)}
        return await self.client.search(text, collection=self.collection, timeout=SECONDS, **asked)


async def costs(asking: Asking, arms: tuple[Flags, Flags], rounds: Sequence[Sequence[str]], told: Progress) -> Any:
    """Medians in milliseconds, and processor time of all stages a search, by turn and round."""
    await asking.interleave(*arms)
    flags: Mapping[str, Flags | None] = dict(zip(TURNS, (*arms, None), strict=True))
    windows: dict[str, list[dict[str, float]]] = {name: [] for name in TURNS}
    bar = told.add_task("Questions", total=sum(map(len, rounds)))
    for number, questions in enumerate(rounds):
        took: dict[str, list[float]] = {name: [] for name in TURNS}
        used: dict[str, Counter[str]] = {name: Counter() for name in TURNS}
        for place, question in enumerate(questions):
            turn = place % len(TURNS)
            for name in (*TURNS[turn:], *TURNS[:turn]):
                before, started = asking.processor_seconds(), time.perf_counter()
                answer = await asking.search(question, flags[name])
                took[name].append((time.perf_counter() - started) * 1000)
                used[name].update(asking.processor_seconds())
                used[name].subtract(before)
                _check(answer, interleaved=name == BOTH)
            told.advance(bar)
        if number:  # the first round warms up
            for name in TURNS:
                cpu = {f"processor time of {stage}": used[name][stage] / len(questions) * 1000 for stage in used[name]}
                total = {"processor time": sum(cpu.values())}
                windows[name].append({"p50": statistics.median(took[name])} | total | cpu)
    return windows


async def differences(asking: Asking, flags: Flags, questions: Sequence[str], told: Progress) -> int:
    """Number of questions to which two equal arms answer otherwise than one does alone."""
    await asking.interleave(flags, flags)
    different = 0
    for question in told.track(questions, description="Equal arms"):
        both, alone = await asking.search(question, None), await asking.search(question, flags)
        _check(both, interleaved=True)
        different += both.results != alone.results
    return different


def _check(answer: Answer, *, interleaved: bool) -> None:
    """Raise StartupError where an answer is not what is to be measured: no figure may hide that."""
    problems = [f"{arm.name}: {arm.failure_reason}" for arm in answer.interleaved_arms if arm.failure_reason]
    reports = [*answer.stages, *(report for arm in answer.interleaved_arms for report in arm.stages)]
    problems += [
        f"{report.stage} {report.outcome}: {report.reason} {report.detail}"
        for report in reports
        if report.outcome in (Outcome.FAILED, Outcome.DEGRADED) or report.reason == "NO_TIME"
    ]
    if bool(answer.interleaved_arms) != interleaved:
        problems.append("the experiment does not reach its users alone")
    if problems:
        raise StartupError("; ".join(problems), remedy="Mend that first; on a busy machine, wait until it is quiet.")


def processor_seconds(pids: Sequence[int]) -> float:
    """Processor time of the living threads of processes, to the nanosecond."""
    spent = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                spent += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
    return spent / 1e9


def family(pid: int) -> list[int]:
    """A process and those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(one for child in children for one in family(int(child)))]


def rows(name: str, collection: str, windows: Mapping[str, list[dict[str, float]]]) -> Iterator[dict[str, Any]]:
    """The interleaved answer over the slower arm alone: the median over rounds, with its interval."""
    for figure in windows[BOTH][0]:
        bound = MOST_RATIO if figure == "p50" else None
        of = {turn: [window[figure] for window in windows[turn]] for turn in TURNS}
        slower = max(ARMS, key=lambda arm: statistics.median(of[arm]))
        ratio = bootstrap([one / other for one, other in zip(of[BOTH], of[slower], strict=True)])
        yield {
            "name": f"{collection}, {name}: {figure}, interleaved over the slower arm alone",
            "value": round(ratio.value, 4),
            "interval": [round(ratio.low, 4), round(ratio.high, 4)],
            "bound": bound,
            "ok": None if bound is None else ratio.value <= bound,
            "slower": slower,
            **{f"{turn}_ms": round(statistics.median(each), 3) for turn, each in of.items()},
        }


async def measure(console: Console, dataset: Dataset, rounds: int, each: int) -> list[dict[str, Any]]:
    """Start a stack, store the collection unless it is there, and ask."""
    questions = list(dataset.queries.values())
    draw = random.Random(20)
    made: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(platform(console))
        served = await stack.enter_async_context(control())
        told = stack.enter_context(progress_bars(console))
        collection = await running.stored(dataset, told)
        keys = {"FEEDBACK_KEYS": secrets.token_hex(16)}
        address, pid = await stack.enter_async_context(gateway(running.stack, served.address, **keys))
        client = await stack.enter_async_context(AsyncClient(address, timeout=SECONDS))
        asking = Asking(client, served, _processes(running, pid), collection)
        for name, arms in PAIRS.items():
            asked = [draw.sample(questions, min(each, len(questions))) for _ in range(rounds + 1)]
            made += rows(name, dataset.name, await costs(asking, arms, asked, told))
        for name, flags in EQUAL.items():
            different = await differences(asking, flags, questions, told)
            what = f"{dataset.name}, {name} twice: answers that differ from one arm's"
            row = {"name": what, "value": different, "bound": 0, "ok": different == 0, "questions": len(questions)}
            made.append(row)
    return made


def _processes(running: Platform, gateway: int) -> dict[str, list[int]]:
    return {"gateway": family(gateway), **{stage: family(running.stack.pid(stage)) for stage in BEHIND}}


def main(
    data: Annotated[Path, typer.Argument(metavar="[DATA]", help="A folder in BEIR's layout.")] = DATA,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds after one that warms up.")] = 15,
    each: Annotated[int, typer.Option("--searches", min=10, help="Questions a round, each asked three times.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Measure what interleaving costs. Leave the machine alone meanwhile. Writes build/bench/interleaving.json.

    Exit code 1 if the p50 of an interleaved answer is more than 1.15 times that of the slower arm alone, or if two
    equal arms give another answer than one.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    try:
        made = asyncio.run(measure(console, load(data), rounds, each))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except (SluiceError, NotStored) as error:
        console.print(str(error), markup=False)
        sys.exit(1)
    command = f"python -m bench.interleaving {data.name} --rounds {rounds} --searches {each}"
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    kept = {"command": command, "processor": processor(), "rows": made}
    RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        console.print(_table(made))
    console.print(f"Written to {shown(RESULT)}.")
    sys.exit(1 if any(row["ok"] is False for row in made) else 0)


def _table(made: Sequence[dict[str, Any]]) -> Table:
    table = Table("", "control ms", "treatment ms", "interleaved ms", "", "interval", "")
    marks = {True: "[green]✓[/]", False: "[red]✗[/]", None: ""}
    for row in made:
        times = [f"{row[f'{turn}_ms']:.2f}" if f"{turn}_ms" in row else "" for turn in TURNS]
        interval = "{:.3f} to {:.3f}".format(*row["interval"]) if "interval" in row else ""
        table.add_row(row["name"], *times, f"{row['value']:g}", interval, marks[row["ok"]])
    return table


if __name__ == "__main__":
    typer.run(main)
