"""`python -m bench.hops`: what following relations gains, and what it costs, through the services."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from scipy import stats

from bench.quality import measures
from bench.quality.beir import Dataset, find, load
from bench.quality.measures import ALL_GOLD, NDCG
from bench.rerank.measuring import processor
from bench.rerank.platform import Platform, platform
from bench.speed.cli import AsJson, examples, progress_bars, wide_console
from deploy.local.paths import BUILD, ROOT, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from sluice_client import Answer, Features, NotStored, Outcome, SluiceError, features

FILE = BUILD / "bench" / "hops.json"
DATA = ROOT.parent / "shared" / "data" / "ir"
EXAMPLES = """
python -m bench.hops ../shared/data/ir                    everything, half an hour
python -m bench.hops ../shared/data/ir/musique_train100   one collection
python -m bench.hops --only hops --questions 20
"""
DEPTH = 10
FIRST = 5
SECONDS = 60.0


def _on(*, hops: int, method: str = "") -> Features:
    reranked = {"rerank_method": method, "rerank_candidate_count": 20 if method == "cross_encoder" else 50}
    hopping = {"max_hops": hops} if hops else {}
    return features(
        dense=True,
        lexical=True,
        expansion=False,
        multi_hop=hops > 0,
        rerank=bool(method),
        **hopping,
        **(reranked if method else {}),
    )


HYBRID, HOPS = "hybrid", "hops"
CONFIGS: Mapping[str, Features] = {
    HYBRID: _on(hops=0),
    HOPS: _on(hops=1),
    "two hops": _on(hops=2),
    "hops + late": _on(hops=1, method="late"),
    "hops + cascade": _on(hops=1, method="cascade"),
    "hops + cross_encoder": _on(hops=1, method="cross_encoder"),
}

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@dataclass
class Asked:
    """Answers of a configuration, by question."""

    run: dict[str, list[str]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    """Enrichment scores."""
    milliseconds: dict[str, float] = field(default_factory=dict)
    hop_milliseconds: dict[str, float] = field(default_factory=dict)


@app.command(epilog=examples(EXAMPLES))
def main(
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="Folders in BEIR's layout, or folders of them.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Configurations beside hybrid; repeat for several.")
    ] = None,
    questions: Annotated[int | None, typer.Option(metavar="N", min=5, help="Questions of each collection.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure recall, all gold, nDCG@10 and milliseconds with hops, through a stack of real processes of its own.

    Configurations are asked in turn, question by question, so that all see the same machine. Rows go to
    build/bench/hops.json over earlier ones of the same collection and configuration.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console(stderr=as_json)
    try:
        unknown = set(only or ()) - set(CONFIGS)
        if unknown:
            raise StartupError(f"there is no {', '.join(sorted(unknown))}", remedy=f"There are: {', '.join(CONFIGS)}.")
        datasets = [load(folder) for folder in find(data or [DATA])]
        names = [HYBRID, *(name for name in CONFIGS if name != HYBRID and (not only or name in only))]
        asyncio.run(measure(console, datasets, names, questions))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except (SluiceError, NotStored) as error:
        console.print(str(error), markup=False)
        sys.exit(1)
    rows = read()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console.print(table(rows))
        console.print(f"Written to {shown(FILE)}")


async def measure(console: Console, datasets: Sequence[Dataset], names: Sequence[str], questions: int | None) -> None:
    """Ask every question of every collection, and keep the rows of each as soon as they are there."""
    async with platform(console) as running:
        with progress_bars(console) as progress:
            for dataset in datasets:
                collection = await running.stored(dataset, progress)
                asked = await ask(running, dataset, collection, names, questions, progress)
                store(rows_of(dataset, asked))


async def ask(
    running: Platform,
    dataset: Dataset,
    collection: str,
    names: Sequence[str],
    questions: int | None,
    progress: Progress,
) -> Mapping[str, Asked]:
    """Ask the questions of a collection by each configuration in turn."""
    asked = {name: Asked() for name in names}
    queries = list(islice(dataset.queries.items(), questions))
    for place, (query, text) in enumerate(progress.track(queries, description=f"{dataset.name}: questions")):
        turn = place % len(names)
        for name in (*names[turn:], *names[:turn]):
            started = time.perf_counter()
            answer = await running.client.search(
                text, limit=DEPTH, collection=collection, features=CONFIGS[name], timeout=SECONDS
            )
            found = asked[name]
            found.milliseconds[query] = (time.perf_counter() - started) * 1000
            _check(answer, name)
            found.run[query] = [result.passage.document_id for result in answer.results]
            if answer.enrichment_score is not None:
                found.scores[query] = answer.enrichment_score
                [hop] = [report for report in answer.stages if report.stage == "hop"]
                found.hop_milliseconds[query] = hop.duration.total_seconds() * 1000
    return asked


def _check(answer: Answer, name: str) -> None:
    """Raise StartupError where a stage did not do what the configuration asks for: no figure may hide that."""
    for report in answer.stages:
        if report.outcome in (Outcome.FAILED, Outcome.DEGRADED) or report.reason == "NOT_ENRICHED":
            raise StartupError(
                f"{name}: {report.stage} {report.outcome}: {report.reason} {report.detail}",
                remedy="Mend that first; on a busy machine, wait until it is quiet.",
            )


def rows_of(dataset: Dataset, asked: Mapping[str, Asked]) -> list[dict[str, Any]]:
    """Rows of one collection: means, and gains over hybrid with the bounds of their paired 95 % intervals."""
    values = {name: _by_query(dataset, found) for name, found in asked.items()}
    rows = []
    for name, found in asked.items():
        of_name = values[name]
        row: dict[str, Any] = {"collection": dataset.name, "config": name}
        row |= {key: round(statistics.fmean(of_query.values()), 4) for key, of_query in of_name.items()}
        row |= {"questions": len(found.run), "p50_ms": round(statistics.median(found.milliseconds.values()), 2)}
        if name != HYBRID:
            gains = {key: measures.interval(of_name[key], values[HYBRID][key]) for key in of_name}
            row["over_hybrid"] = {
                key: [round(bound, 4) for bound in (gain.value, gain.low, gain.high)] for key, gain in gains.items()
            }
            ratios = [found.milliseconds[query] / asked[HYBRID].milliseconds[query] for query in found.run]
            row["time_over_hybrid"] = round(statistics.median(ratios), 3)
            row["hop_p50_ms"] = round(statistics.median(found.hop_milliseconds.values()), 2)
            row["enrichment_auc"] = _auc(found.scores, of_name["all5"])
        rows.append({**row, "processor": processor()})
    return rows


def _by_query(dataset: Dataset, found: Asked) -> dict[str, dict[str, float]]:
    known = measures.by_query(dataset.qrels, found.run)
    relevant = {query: {one for one, grade in dataset.qrels[query].items() if grade > 0} for query in found.run}
    return {
        "r5": known["recall@5"],
        "all5": {query: float(relevant[query] <= set(ranking[:FIRST])) for query, ranking in found.run.items()},
        "all10": known[ALL_GOLD],
        "ndcg10": known[NDCG],
    }


def _auc(scores: Mapping[str, float], complete: Mapping[str, float]) -> float | None:
    """Chance that a question with all of its passages among the first five has a higher score than one without."""
    with_all = [score for query, score in scores.items() if complete[query]]
    others = [score for query, score in scores.items() if not complete[query]]
    if not with_all or not others:
        return None
    return round(float(stats.mannwhitneyu(with_all, others).statistic) / len(with_all) / len(others), 4)


def read() -> list[dict[str, Any]]:
    """Rows of earlier runs."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else []


def store(fresh: Sequence[dict[str, Any]]) -> None:
    """Write rows over earlier ones of the same collection and configuration."""
    merged = {(row["collection"], row["config"]): row for row in [*read(), *fresh]}
    FILE.parent.mkdir(parents=True, exist_ok=True)
    order = list(CONFIGS)
    rows = sorted(merged.values(), key=lambda row: (row["collection"], order.index(row["config"])))
    FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of the rows."""
    titles = ("R@5", "all@5", "all@10", "nDCG@10", "R@5 over hybrid", "p50, ms", "times hybrid", "AUC of the score")
    view = Table("collection", "configuration", title="Hops", title_justify="left")
    for title in titles:
        view.add_column(title, justify="right", no_wrap=True)
    before = ""
    for row in rows:
        if before and row["collection"] != before:
            view.add_section()
        gain = row.get("over_hybrid", {}).get("r5")
        view.add_row(
            "" if row["collection"] == before else escape(row["collection"]),
            row["config"],
            *(f"{100 * row[key]:.1f}" for key in ("r5", "all5", "all10", "ndcg10")),
            "{:+.1f} ({:+.1f} … {:+.1f})".format(*(100 * bound for bound in gain)) if gain else "",
            f"{row['p50_ms']:.1f}",
            f"{row['time_over_hybrid']:.2f}" if "time_over_hybrid" in row else "",
            f"{row['enrichment_auc']:.2f}" if row.get("enrichment_auc") is not None else "",
        )
        before = row["collection"]
    return view


if __name__ == "__main__":
    app()
