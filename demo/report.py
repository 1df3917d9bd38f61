"""Tables and the result file of the demo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from demo.questions import Run
from sluice_client import Outcome, Result, Stage, StageReport

_SHOWN = 5


def table(runs: Mapping[str, Run]) -> Table:
    """Show one question: the best answers and stages of every configuration."""
    question = next(iter(runs.values())).question
    shown = Table(title=f"[bold]{escape(question)}[/]", title_justify="left", expand=True)
    shown.add_column("", no_wrap=True, style="dim")
    for config in runs:
        shown.add_column(config, ratio=1, overflow="fold")
    before = {result.passage.id: result.rank for result in runs["off"].answer.results}
    for place in range(_SHOWN):
        shown.add_row(str(place + 1), *(_answer(run, place, before) for run in runs.values()))
    shown.add_section()
    for stage in [report.stage for report in runs["off"].answer.stages]:
        shown.add_row(stage.value, *(_stage(run, stage) for run in runs.values()))
    return shown


def write(path: Path, passages: int, runs: Sequence[Run]) -> None:
    """Write all runs as JSON."""
    content = {
        "passages": passages,
        "runs": [
            {
                "question": run.question,
                "config": run.config,
                "results": [{"title": result.passage.title, "score": result.score} for result in run.answer.results],
                "stages": [
                    {
                        "stage": stage.stage.value,
                        "outcome": stage.outcome.value,
                        "ms": round(stage.duration.total_seconds() * 1000, 3),
                    }
                    for stage in run.answer.stages
                ],
            }
            for run in runs
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _answer(run: Run, place: int, before: Mapping[str, int]) -> str:
    results = run.answer.results
    if place >= len(results):
        return ""
    result = results[place]
    change = "" if run.config == "off" else _change(result, before) + " "
    return f"[dim]{result.score:.3f}[/] {change}{escape(result.passage.title)}"


def _change(result: Result, before: Mapping[str, int]) -> str:
    """Show the move of a result against `off`."""
    if result.passage.id not in before:
        return "[green]new[/]"
    climbed = before[result.passage.id] - result.rank
    if climbed > 0:
        return f"[green]↑{climbed}[/]"
    return f"[red]↓{-climbed}[/]" if climbed < 0 else "[dim] =[/]"


def _stage(run: Run, stage: Stage) -> str:
    report = next((report for report in run.answer.stages if report.stage is stage), None)
    return "" if report is None else _report(report)


def _report(report: StageReport) -> str:
    if report.outcome is Outcome.SKIPPED:
        return "[dim]skipped[/]"
    took = f"{report.duration.total_seconds() * 1000:.0f} ms"
    return took if report.outcome is Outcome.RAN else f"[yellow]{report.outcome.value}: {report.reason}[/] {took}"
