"""The results of the drill: build/experiments.json, tables, and a picture of users needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.markup import escape
from rich.table import Table

from deploy.local.paths import BUILD
from drills.experiments.live import Ended
from drills.experiments.race import CLICK_RATE, PREFERENCE, RECIPROCAL_RANK
from drills.experiments.regressions import Stopped
from drills.experiments.replay import MOST_USERS
from drills.experiments.witness import Witness

RESULT = BUILD / "experiments.json"
PICTURE = BUILD / "experiments-users.png"
LIVE_PICTURE = BUILD / "experiments-live.png"
Row = Mapping[str, Any]
_STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}

_METRICS = {
    PREFERENCE: ("interleaving", "#1a7f37"),
    RECIPROCAL_RANK: ("A/B, reciprocal rank", "#1f6feb"),
    CLICK_RATE: ("A/B, click rate", "#8250df"),
}


def written(found: Mapping[str, Any]) -> Path:
    """Put figures into build/experiments.json; those of parts that did not run stay as they were."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    RESULT.write_text(json.dumps(before | dict(found), indent=2) + "\n", encoding="utf-8")
    return RESULT


def written_regressions(stopped: Sequence[Stopped]) -> None:
    """Put broken arms into it; those that were not tried stay as they were."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    rows = {row["name"]: row for row in before.get("regressions", [])}
    rows |= {one.regression.name: of_regression(one) for one in stopped}
    written({"regressions": list(rows.values())})


def of_live(ended: Ended, witness: Witness) -> dict[str, Any]:
    """Figures of one experiment on the real stack."""
    asked = ended.asked
    return {
        # Not asdict(): it takes counters apart.
        **{field.name: getattr(ended, field.name) for field in fields(ended) if field.name != "asked"},
        "asked": {"users": asked.users, "answers": asked.answers, "clicks": asked.clicks},
        "failed": dict(asked.failed),
        "recorded": dict(asked.events),
        "unrecorded": dict(asked.unrecorded),
        "answers_outside": witness.outside,
        "answers_in_another_arm": witness.moved,
        "answers_with_other_flags": witness.wrong_flags,
        "drafts": witness.drafts,
        "drafts_that_differ": witness.other_drafts,
    }


def of_regression(stopped: Stopped) -> dict[str, Any]:
    """Figures of one broken arm."""
    ended = stopped.ended
    return {
        "name": stopped.regression.name,
        "stopped": stopped.ok,
        "reason": "; ".join(ended.reasons),
        "users": ended.users,
        "answers": ended.answers,
        "seconds": ended.seconds,
        "verdict": ended.verdict,
        "method": ended.method,
    }


def users_table(rows: Sequence[Row]) -> Table:
    """Table of users needed."""
    table = Table(title="Users needed: four of five experiments have decided by then", show_lines=False)
    table.add_column("collection")
    table.add_column("people click by")
    for words, _colour in _METRICS.values():
        table.add_column(words, justify="right")
    table.add_column("times as many", justify="right")
    table.add_column("effects: preference, rank, clicks", justify="right")
    for row in rows:
        effects = ", ".join(
            f"{cell['effect']:+.3f}" if cell["relative"] is None else f"{cell['relative']:+.1%}"
            for cell in (row[metric] for metric in _METRICS)
        )
        times = ", ".join(
            "-" if (times := row[metric]["times_interleaving"]) is None else f"{times:g}"
            for metric in (RECIPROCAL_RANK, CLICK_RATE)
        )
        table.add_row(
            row["collection"], row["click_model"], *(_users(row[metric]) for metric in _METRICS), times, effects
        )
    return table


def live_table(experiments: Sequence[Ended], broken: Sequence[Stopped]) -> Table:
    """Table of the experiments on the real stack."""
    table = Table(title="On the real stack", show_lines=True)
    for column in ("experiment", "method"):
        table.add_column(column)
    for column in ("users", "answers", "seconds"):
        table.add_column(column, justify="right")
    table.add_column("verdict and reasons", overflow="fold")
    table.add_column("")
    marked = [(ended, ended.by_itself) for ended in experiments] + [(one.ended, one.ok) for one in broken]
    for ended, ok in marked:
        table.add_row(
            ended.name,
            ended.method,
            f"{ended.users:,}",
            f"{ended.answers:,}",
            f"{ended.seconds:.0f}",
            escape(ended.words),
            "ok" if ok else "[red]FAIL[/]",
        )
    return table


def draw(rows: Sequence[Row]) -> Path:
    """Draw the users needed, on a scale of logarithms."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 1.2 + 0.75 * len(rows)))
        axes = figure.add_subplot()
        height = 0.8 / len(_METRICS)
        for number, (metric, (words, colour)) in enumerate(_METRICS.items()):
            places = [place + (number - 1) * height for place in range(len(rows))]
            users = [row[metric]["users"] or MOST_USERS for row in rows]
            axes.barh(places, users, height * 0.9, color=colour, label=words)
            for row, place, width in zip(rows, places, users, strict=True):
                axes.text(width * 1.04, place, _users(row[metric]), va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [f"{row['collection']}\n{row['click_model']}" for row in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(10, 4 * MOST_USERS)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda users, _: f"{users:,.0f}"))
        axes.set_xlabel("users until four of five experiments have found that hybrid is better than dense")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, frameon=False)
        figure.savefig(PICTURE, dpi=150, bbox_inches="tight")
    return PICTURE


def draw_live(experiments: Sequence[Ended]) -> Path:
    """Draw the intervals of the experiments on the real stack, as they became narrower."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        for number, ended in enumerate(experiments, start=1):
            axes = figure.add_subplot(1, len(experiments), number)
            if not ended.course:
                continue
            users, values, lows, highs = zip(*ended.course, strict=True)
            axes.fill_between(users, lows, highs, color="#1f6feb", alpha=0.2, linewidth=0)
            axes.plot(users, values, marker=".", color="#1f6feb")
            axes.axhline(0, color="#6e7781", linewidth=0.8)
            bound = 1.1 * max(map(abs, (*lows, *highs)))
            axes.set_ylim(-bound, bound)
            axes.set_xlabel("users")
            axes.set_ylabel("preference" if ended.method == "interleave" else "difference of reciprocal rank")
            axes.set_title(f"{ended.name}: {ended.verdict} {ended.arm} after {ended.users:,} users", fontsize=10)
        figure.savefig(LIVE_PICTURE, dpi=150)
    return LIVE_PICTURE


def _users(cell: Row) -> str:
    if cell["users"] is None:
        return f"> {MOST_USERS:,}"
    between = f" ({cell['between'][0]:,} to {cell['between'][1]:,})" if cell["between"] else ""
    return f"{cell['users']:,}{between}"
