"""`make experiment-drill`: people say which ranking they prefer, and what is broken is stopped; build/experiments.json.

Simulated people (`people`) ask the real stack by the real client, click, and have their events recorded:

- `live`: dense against hybrid, interleaved and A/B, until the product decides by itself;
- `broken`: arms with one fault each, which the product has to stop, with its reason;
- `replay`: the users that each method needs at equal power, from the real answers, which are recorded once;
- `aa`: experiments without a difference, looked at after every event (drills/experiments/aa);
- `feedback`: forged, doubled, late and foreign events, kills of the control plane (drills/feedback).

It reads collections with known answers, which are no part of the product: --data FOLDER.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.quality.beir import Dataset
from deploy.local.paths import BUILD, shown
from drills.experiments import race, regressions, results
from drills.experiments.answers import Recorded, recorded
from drills.experiments.asking import Crowd
from drills.experiments.live import Ended, plan, run
from drills.experiments.people import CLICK_MODELS
from drills.experiments.regressions import Stopped, stopped
from drills.experiments.replay import REPETITIONS
from drills.experiments.witness import Witness
from drills.experiments.world import DATA, LIVE, Collection, World, read, world
from services.chassis.errors import StartupError
from sluice_client import ExperimentMethod, SluiceError

ANSWERS = BUILD / "experiments-answers.json"
PARTS = ("live", "broken", "replay", "aa", "feedback")
REPORTS = BUILD / "experiment-reports"
OTHERS = {
    "aa": ("drills.experiments.aa", BUILD / "experiments-aa.json", ("aa_false_ab", "aa_false_interleave", "aa_looks")),
    "feedback": ("drills.feedback", BUILD / "feedback.json", ("forged_counted", "lost")),
}
"""Drills that have figures of their own: module, result, and the figures that are taken up."""
LIVE_SECONDS = 300.0
MOST_SHARE = 0.1
"""Users that interleaving may need, as a share of those of A/B."""
_MINIMUM_EFFECT = 0.02
_NARROWEST = 150


def main(
    data: Annotated[Path, typer.Option(help="Folder with scifact and cranfield in BEIR's layout.")] = DATA,
    only: Annotated[str, typer.Option(help=f"Some of {', '.join(PARTS)}, and of the broken arms, as in slower.")] = "",
    repetitions: Annotated[int, typer.Option(min=5, help="Experiments of each row of the replay.")] = REPETITIONS,
) -> None:
    """Let people say which ranking they prefer. Exit code 1 if anything is not as it should be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _NARROWEST))
    wanted = [part.strip() for part in only.split(",") if part.strip()]
    parts = [part for part in PARTS if part in wanted or not wanted]
    broken = [one for one in regressions.REGRESSIONS if one.name in wanted or "broken" in parts]
    if unknown := set(wanted) - {*PARTS, *(regression.name for regression in regressions.REGRESSIONS)}:
        names = ", ".join([*PARTS, *(regression.name for regression in regressions.REGRESSIONS)])
        console.print(f"There is no part {', '.join(sorted(unknown))}; there are {names}.", markup=False)
        sys.exit(2)
    REPORTS.mkdir(parents=True, exist_ok=True)
    drill = Drill(console, parts, broken, repetitions)
    started = time.monotonic()
    try:
        drill.run(data)
    except StartupError as error:
        console.print(f"{error.message}. {error.remedy}", markup=False)
        sys.exit(3)
    except (SluiceError, TimeoutError, RuntimeError):
        traceback.print_exc()
        drill.failed.append("the drill did not come to its end")
    console.print(f"{time.monotonic() - started:.0f} s. Written to {shown(results.RESULT)}.")
    for problem in drill.failed:
        console.print(f"[red]FAIL[/] {problem}", highlight=False)
    sys.exit(1 if drill.failed else 0)


class Drill:
    """The parts, one after the other."""

    def __init__(
        self,
        console: Console,
        parts: Sequence[str],
        broken: Sequence[regressions.Regression],
        repetitions: int,
    ) -> None:
        self.failed: list[str] = []
        """Faults that were found."""
        self._console = console
        self._parts = parts
        self._broken = broken
        self._repetitions = repetitions

    def run(self, data: Path) -> None:
        """Run the parts that were asked for."""
        on_the_stack = "live" in self._parts or self._broken
        if on_the_stack or "replay" in self._parts:
            datasets = read(data)
            asked = on_the_stack or not ANSWERS.is_file()
            answers = asyncio.run(self._on_the_stack(datasets)) if asked else _read_answers(datasets)
            if "replay" in self._parts:
                self._race(answers)
        for part, (module, result, names) in OTHERS.items():
            if part in self._parts:
                self._other(part, module, result, names)

    async def _on_the_stack(self, datasets: Sequence[Dataset]) -> list[Recorded]:
        ended: list[Ended] = []
        broken: list[Stopped] = []
        async with world(datasets, self._say) as made:
            answers = [await recorded(made.sound, collection) for collection in made.collections.values()]
            _keep_answers(answers)
            if "live" in self._parts:
                ended = await self._live(made, answers)
            if self._broken:
                broken = await self._stop(made)
        self._console.print(results.live_table(ended, broken))
        return answers

    async def _live(self, made: World, answers: Sequence[Recorded]) -> list[Ended]:
        found = []
        known = next(one for one in answers if one.collection.name == LIVE)
        for seed, method in enumerate((ExperimentMethod.INTERLEAVE, ExperimentMethod.AB), start=1):
            name = f"hybrid-{method.value}"
            planned = plan(name, method, "People find what they look for sooner with words.", _MINIMUM_EFFECT)
            witness = Witness(name, known)
            crowd = Crowd(made.sound, known.collection, CLICK_MODELS[0], name, seed, witness.saw)
            ended = await run(made, planned, crowd, LIVE_SECONDS, self._say)
            self._say(f"{name}: {ended.words}")
            if (ended.verdict, ended.arm) != ("ship", "hybrid"):
                self.failed.append(f"{name} was not decided for hybrid: {ended.words}")
            self.failed += witness.problems
            results.written({name.replace("-", "_"): results.of_live(ended, witness)})
            await asyncio.to_thread(self._report, made, name)
            found.append(ended)
        self._say(f"The picture: {shown(results.draw_live(found))}.")
        return found

    async def _stop(self, made: World) -> list[Stopped]:
        found = []
        for seed, regression in enumerate(self._broken, start=100):
            one = await stopped(made, regression, seed, self._say)
            self._say(f"{regression.name}: {one.ended.words}")
            if not one.ok:
                self.failed.append(f"{regression.name} was not stopped for its fault: {one.ended.words}")
            found.append(one)
        results.written_regressions(found)
        return found

    def _race(self, answers: Sequence[Recorded]) -> None:
        def told(cell: race.Cell) -> None:
            users = cell.needed.at_power
            self._say(f"{cell.collection}, {cell.model}, {cell.metric}: {'too many' if users is None else users} users")

        rows = race.rows(race.race(answers, self._repetitions, told))
        self._console.print(results.users_table(rows))
        self._console.print(f"The picture: {shown(results.draw(rows))}.")
        totals = race.totals(rows, MOST_SHARE)
        self._say(
            f"All together, interleaving needs {totals['users_share']:.1%} of the users of A/B; in "
            f"{totals['rows_within_share']} of {totals['rows']} rows at most {MOST_SHARE:.0%}."
        )
        if totals["users_share"] > MOST_SHARE:
            self.failed.append("interleaving needs more than a tenth of the users of A/B")
        results.written({**totals, "users": rows})

    def _other(self, part: str, module: str, result: Path, names: Sequence[str]) -> None:
        """Run another drill, and take up its figures."""
        self._say(f"{part}: python -m {module}")
        if subprocess.run([sys.executable, "-m", module], check=False).returncode:
            self.failed.append(f"{module} failed")
        if result.is_file():
            figures = json.loads(result.read_text(encoding="utf-8"))
            results.written({name: figures[name] for name in names if name in figures})

    def _report(self, made: World, name: str) -> None:
        """Write the report as a user does."""
        command = [sys.executable, "-m", "sluice_cli.main", "experiment"]
        command += ["--service", made.processes["rollout"].address, "report", name]
        command += ["--html", str(REPORTS / f"{name}.html"), "--markdown", str(REPORTS / f"{name}.md")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        self._say((done.stdout + done.stderr).strip())
        if done.returncode:
            self.failed.append(f"the report of {name} was not written")

    def _say(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False)


def _keep_answers(answers: Sequence[Recorded]) -> None:
    kept = {one.collection.name: {"index": one.collection.index, "rankings": dict(one.rankings)} for one in answers}
    ANSWERS.write_text(json.dumps(kept), encoding="utf-8")


def _read_answers(datasets: Sequence[Dataset]) -> list[Recorded]:
    kept = json.loads(ANSWERS.read_text(encoding="utf-8"))
    return [
        Recorded(Collection(dataset, kept[dataset.name]["index"]), kept[dataset.name]["rankings"])
        for dataset in datasets
    ]


if __name__ == "__main__":
    typer.run(main)
