"""`python -m bench.rerank.tune`: the weight of late interaction, the cascade's reach and the calibrations.

The services are asked once for the scores of every candidate, on training questions; the rest is arithmetic.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import structlog
import typer
from rich.console import Console
from rich.table import Table
from scipy import optimize

from bench.quality import asking
from bench.quality.beir import TEST, Dataset, find, has_split, load
from bench.quality.kept import Kept
from bench.quality.tune import ndcg, sample
from bench.rerank.measuring import KEPT
from bench.rerank.methods import METHODS
from bench.rerank.platform import platform
from bench.speed.cli import progress_bars, wide_console
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from services.gateway.search.order.ranking import best_first, blend
from services.gateway.settings import GatewaySettings

FILE = BUILD / "bench" / "rerank_tune.json"
CANDIDATES = 50
WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
CASCADES = (0, 2, 4, 6, 8, 12, 20)
_CALIBRATED = 20
_RERANK_WEIGHT: float = GatewaySettings.model_fields["rerank_weight"].default
_LATE_WEIGHT: float = GatewaySettings.model_fields["late_weight"].default


class Candidates(NamedTuple):
    """The first candidates of one question, best first, with what each stage says of them."""

    grades: list[int]
    first: list[float]
    late: list[float]
    logits: list[float]
    """The cross-encoder's."""
    best: dict[str, int]
    """Grades of all that is relevant, whether found or not."""

    def ndcg(self, scores: Sequence[float]) -> float:
        """nDCG@10 of an order by scores."""
        order = [str(ranked.position) for ranked in best_first(scores)]
        found = {str(place): grade for place, grade in enumerate(self.grades) if grade}
        missing = {f"missing {name}": grade for name, grade in self.best.items()}
        return ndcg(order, found | missing)

    def by_late(self, weight: float) -> list[float]:
        """Scores after late interaction."""
        return blend(self.first, dict(enumerate(self.late)), weight)

    def by_cascade(self, count: int) -> list[float]:
        """Scores after the cross-encoder has read the best few."""
        late = self.by_late(_LATE_WEIGHT)
        read = [ranked.position for ranked in best_first(late)][:count]
        return blend(late, {place: self.logits[place] for place in read}, _RERANK_WEIGHT)

    def by_cross_encoder(self, count: int) -> list[float]:
        """Scores after the cross-encoder has read the first ones."""
        return blend(self.first, dict(enumerate(self.logits[:count])), _RERANK_WEIGHT)


def fit(scores: Iterable[float], relevant: Iterable[bool]) -> tuple[float, float]:
    """Slope and middle of the logistic function that makes these answers the most likely (Platt, 1999)."""
    x, y = np.fromiter(scores, float), np.fromiter(relevant, float)
    center, spread = float(x.mean()), float(x.std()) or 1.0

    def loss(parameters: Sequence[float]) -> float:
        logit = parameters[0] * (x - center) / spread + parameters[1]
        return float(np.mean(np.logaddexp(0, logit) - y * logit))

    steepness, offset = optimize.minimize(loss, (1.0, 0.0)).x
    return float(steepness / spread), float(center - offset * spread / steepness)


async def asked(console: Console, datasets: Sequence[Dataset], count: int) -> dict[str, list[Candidates]]:
    """Ask so many questions of each collection; their candidates, by collection."""
    found = {}
    late, cross_encoder = METHODS[f"late@{CANDIDATES}"], METHODS[f"cross_encoder@{CANDIDATES}"]
    async with platform(console) as running:
        key = f"{asking.code_digest()} {running.token_model}"
        with progress_bars(console) as progress:
            for dataset in datasets:
                collection = await running.stored(dataset, progress)
                kept = Kept(KEPT / "tune" / f"{dataset.name}.{dataset.split}.jsonl", key)
                lines = {line["query"]: line["candidates"] for line in kept.lines}
                queries = sample(dataset, count)
                for query in progress.track(queries, description=f"{dataset.name}: {dataset.split}"):
                    if query in lines:
                        continue
                    ask = partial(running.client.search, dataset.queries[query], limit=CANDIDATES, timeout=300)
                    by_late, by_logit = [
                        await ask(
                            collection=collection, features=method.config.features, policies=method.config.policies
                        )
                        for method in (late, cross_encoder)
                    ]
                    logits = {result.passage.id: result.scores.rerank for result in by_logit.results}
                    first = sorted(by_late.results, key=lambda result: result.scores.retrieval_rank)
                    lines[query] = [
                        [each.passage.id, each.scores.retrieval, each.scores.late, logits[each.passage.id]]
                        for each in first
                        if logits.get(each.passage.id) is not None
                    ]
                    kept.add(query=query, candidates=lines[query])
                found[dataset.name] = [_candidates(dataset, query, lines[query]) for query in queries]
    return found


def _candidates(dataset: Dataset, query: str, lines: Sequence[Sequence[float]]) -> Candidates:
    ids, first, late, logits = (list(column) for column in zip(*lines, strict=True))
    grades = dataset.qrels[query]
    missing = {name: grade for name, grade in grades.items() if name not in set(ids)}
    return Candidates([grades.get(each, 0) for each in ids], first, late, logits, missing)


def curve(
    title: str, found: dict[str, list[Candidates]], ways: dict[str, Callable[[Candidates], list[float]]]
) -> Table:
    """Table of nDCG@10: a line a collection, and the mean; a column a way."""
    view = Table("", *ways, title=title, title_justify="left")
    values = {
        name: [statistics.fmean(each.ndcg(way(each)) for each in questions) for way in ways.values()]
        for name, questions in found.items()
    }
    for name, row in values.items():
        view.add_row(name, *(f"{value:.3f}" for value in row))
    view.add_row(
        "mean", *(f"{statistics.fmean(column):.4f}" for column in zip(*values.values(), strict=True)), style="bold"
    )
    return view


def main(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Collections, or folders of them.")],
    questions: Annotated[int, typer.Option(metavar="N", min=1, help="Questions of each.")] = 100,
) -> None:
    """Draw the curves of LATE_WEIGHT and of the cascade, and fit the calibrations; build/bench/rerank_tune.json.

    Takes the split `train` of a collection that has one. Another is taken whole: pass only what was made of training
    questions, and never what is reported.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console()
    try:
        datasets = [load(folder, "train" if has_split(folder, "train") else TEST) for folder in find(folders)]
        found = asyncio.run(asked(console, datasets, questions))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    for title, way, values in (
        ("LATE_WEIGHT", "by_late", WEIGHTS),
        ("cascade_count", "by_cascade", CASCADES),
        ("cross_encoder", "by_cross_encoder", (20, 50)),
    ):
        console.print(curve(title, found, {f"{value:g}": methodcaller(way, value) for value in values}))
    looked = [each for questions_of in found.values() for each in questions_of]
    relevant = [grade > 0 for each in looked for grade in each.grades[:_CALIBRATED]]
    fitted = {
        "LATE": fit((score for each in looked for score in each.late[:_CALIBRATED]), relevant),
        "CROSS_ENCODER": fit((score for each in looked for score in each.logits[:_CALIBRATED]), relevant),
    }
    for name, (slope, middle) in fitted.items():
        console.print(f"{name} = Calibration(slope={slope:.3g}, middle={middle:.3g})", highlight=False)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(fitted, indent=1) + "\n", encoding="utf-8")
    console.print(f"The calibrations are in {shown(FILE)}")


if __name__ == "__main__":
    typer.run(main)
