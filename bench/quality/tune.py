"""`python -m bench.quality.tune`: what each weight does, one curve a weight, on questions that no report uses.

The stages are asked once (`evidence.py`); then every setting is tried in numpy (`simulate.py`).
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from bench.quality.asking import ENVIRONMENT
from bench.quality.beir import TEST, Dataset, find, has_split, load
from bench.quality.evidence import Collector, Evidence, Stages
from bench.quality.measures import NDCG
from bench.quality.simulate import FirstStage, Scored
from bench.speed.cli import progress_bars, wide_console
from deploy.local import LocalStack
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.chassis.errors import StartupError
from services.gateway.search.order.ranking import best_first, blend
from services.gateway.settings import GatewaySettings
from services.retriever.lexical import Bm25
from services.retriever.search.fusion import Found, Fused, fuse
from services.retriever.settings import RetrieverSettings

FOLDER = BUILD / "bench" / "quality" / "evidence"
FILE = BUILD / "bench" / "tune.json"
# Every candidate that a sensible fusion puts among its first thirty.
RERANKED = 30
POOL_WEIGHTS = (0.5, 1.0, 2.0)
# The weight that the expander gives a variant without any doubt, while variants are collected.
EVIDENCE = 0.5


def _default(settings: type[BaseModel], name: str) -> Any:
    return settings.model_fields[name].default


@dataclass(frozen=True)
class Settings:
    """One point in the space of weights. The defaults are those of the services."""

    k1: float = _default(RetrieverSettings, "lexical_k1")
    b: float = _default(RetrieverSettings, "lexical_b")
    average_length: float = _default(RetrieverSettings, "lexical_average_length")
    title_weight: float = _default(RetrieverSettings, "lexical_title_weight")
    depth: int = _default(RetrieverSettings, "fusion_depth")
    dense_weight: float = _default(GatewaySettings, "dense_weight")
    lexical_weight: float = _default(GatewaySettings, "lexical_weight")
    strategy: str | None = None
    variant_weight: float = 0.0
    """Of a variant without any doubt; the query has 1."""
    variants_dense: bool = True
    variants_lexical: bool = True
    reranked: bool = False
    rerank_weight: float = _default(GatewaySettings, "rerank_weight")
    rerank_top_k: int = _default(GatewaySettings, "rerank_top_k")
    blending: str = "z"


class Tuned:
    """One collection under any settings."""

    def __init__(self, evidence: Evidence) -> None:
        self.dataset = evidence.dataset
        self._evidence = evidence
        self._ids = [document.id for document in evidence.dataset.documents]
        self._stage = FirstStage(
            [(document.title, document.text) for document in evidence.dataset.documents], evidence.documents
        )
        self._searches: dict[tuple[Any, ...], Scored] = {}
        self.scores: dict[str, dict[int, float]] = {}
        """The cross-encoder's, by query and place of the document."""

    @property
    def average_length(self) -> float:
        return self._stage.average_length

    def pool(self, query: str) -> list[int]:
        """The documents that the cross-encoder has to read of one query, for whatever settings."""
        found: dict[int, None] = {}
        for weight in POOL_WEIGHTS:
            found |= dict.fromkeys(each.id for each in self.first(query, Settings(lexical_weight=weight))[:RERANKED])
        return list(found)

    def first(self, query: str, settings: Settings) -> list[Fused[int]]:
        """The first stage's documents, by their places, and scores."""
        text = self.dataset.queries[query]
        searches = [
            (self._dense(text), settings.dense_weight),
            (self._lexical(text, settings), settings.lexical_weight),
        ]
        if settings.strategy is not None:
            for variant in self._evidence.variants[settings.strategy][query]:
                weight = variant.weight / EVIDENCE * settings.variant_weight
                if settings.variants_dense:
                    searches.append((self._dense(variant.text), weight * settings.dense_weight))
                if settings.variants_lexical:
                    searches.append((self._lexical(variant.text, settings), weight * settings.lexical_weight))
        return fuse(
            [
                Found(scored[: settings.depth], weight, whole=len(scored) < settings.depth)
                for scored, weight in searches
                if weight > 0
            ]
        )

    def ranking(self, query: str, settings: Settings) -> list[str]:
        """Ids of documents in the final order."""
        first = self.first(query, settings)
        if settings.reranked:
            logits = self.scores[query]
            head = [found for found in first[: settings.rerank_top_k] if found.id in logits]
            blended = BLENDINGS[settings.blending](
                [found.score for found in head], [logits[found.id] for found in head], settings.rerank_weight
            )
            read = {found.id for found in head}
            first = [head[position] for position in blended] + [found for found in first if found.id not in read]
        return [self._ids[found.id] for found in first[:100]]

    def _dense(self, text: str) -> Scored:
        key = ("dense", text)
        if key not in self._searches:
            self._searches[key] = self._stage.dense(self._evidence.vectors[text], 300)
        return self._searches[key]

    def _lexical(self, text: str, settings: Settings) -> Scored:
        key = ("lexical", text, settings.k1, settings.b, settings.average_length, settings.title_weight)
        if key not in self._searches:
            bm25 = Bm25(settings.k1, settings.b, settings.average_length, settings.title_weight)
            self._searches[key] = self._stage.lexical(text, bm25, 300)
        return self._searches[key]


def ndcg(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """nDCG@10 with the grade as gain, as trec_eval counts it."""
    gains = [grades.get(document, 0) / math.log2(place + 2) for place, document in enumerate(ranking[:10])]
    best = sorted(grades.values(), reverse=True)[:10]
    return sum(gains) / sum(grade / math.log2(place + 2) for place, grade in enumerate(best))


def recall(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """Recall at the length of the ranking."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant & set(ranking)) / len(relevant)


def _z(retrieval: Sequence[float], logits: Sequence[float], weight: float) -> list[int]:
    """As the gateway blends."""
    return [ranked.position for ranked in best_first(blend(retrieval, dict(enumerate(logits)), weight))]


def _by(
    first: Callable[[Sequence[float]], Sequence[float]], second: Callable[[Sequence[float]], Sequence[float]]
) -> Callable[[Sequence[float], Sequence[float], float], list[int]]:
    def order(retrieval: Sequence[float], logits: Sequence[float], weight: float) -> list[int]:
        scores = [
            (1 - weight) * one + weight * other for one, other in zip(first(retrieval), second(logits), strict=True)
        ]
        return sorted(range(len(scores)), key=lambda position: -scores[position])

    return order


def _min_max(scores: Sequence[float]) -> list[float]:
    low, high = min(scores), max(scores)
    return [(score - low) / ((high - low) or 1.0) for score in scores]


def _logistic(scores: Sequence[float]) -> list[float]:
    return [1 / (1 + math.exp(-score)) for score in scores]


def _reciprocal(k: float) -> Callable[[Sequence[float]], list[float]]:
    def ranks(scores: Sequence[float]) -> list[float]:
        places = {
            position: place for place, position in enumerate(np.argsort([-score for score in scores], kind="stable"))
        }
        return [1 / (k + places[position]) for position in range(len(scores))]

    return ranks


BLENDINGS: Mapping[str, Callable[[Sequence[float], Sequence[float], float], list[int]]] = {
    "z": _z,
    "min-max": _by(_min_max, _min_max),
    "min-max, logistic": _by(_min_max, _logistic),
    "RRF of ranks, k = 10": _by(_reciprocal(10), _reciprocal(10)),
    "RRF of ranks, k = 60": _by(_reciprocal(60), _reciprocal(60)),
}
"""Ways to join the first stage's scores and the cross-encoder's: the new order of what was read."""


_LEXICAL_ALONE = {"dense_weight": 0.0}
_RERANKED: dict[str, Any] = {"reranked": True}


@dataclass(frozen=True)
class Curve:
    """One setting along its values, all else at its default."""

    name: str
    field: str
    """Of Settings."""
    values: Sequence[Any]
    around: Mapping[str, Any]
    """Settings that are not at their default."""


CURVES = (
    Curve("LEXICAL_K1, words alone", "k1", (0.6, 0.9, 1.2, 1.5, 2.0), _LEXICAL_ALONE),
    Curve("LEXICAL_B, words alone", "b", (0.3, 0.45, 0.6, 0.75, 0.9), _LEXICAL_ALONE),
    Curve("LEXICAL_AVERAGE_LENGTH, words alone", "average_length", (32, 64, 128, 192, 256), _LEXICAL_ALONE),
    Curve("LEXICAL_TITLE_WEIGHT, words alone", "title_weight", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0), _LEXICAL_ALONE),
    Curve("LEXICAL_TITLE_WEIGHT", "title_weight", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0), {}),
    Curve("LEXICAL_WEIGHT", "lexical_weight", (0.25, 0.43, 0.54, 0.67, 0.82, 1.0, 1.5, 2.33), {}),
    Curve("FUSION_DEPTH", "depth", (20, 50, 100, 200, 300), {}),
    *(
        Curve(
            f"{name}, variants search {how}",
            "variant_weight",
            (0.003, 0.01, 0.03, 0.1, 0.3, 0.5),
            {"strategy": strategy, **route},
        )
        for name, strategy in (
            ("SYNONYM_WEIGHT", "synonyms"),
            ("TEMPLATE_WEIGHT", "multi_query"),
        )
        for how, route in (
            ("both ways", {}),
            ("by vector", {"variants_lexical": False}),
            ("by words", {"variants_dense": False}),
        )
    ),
    Curve("RERANK_TOP_K", "rerank_top_k", (5, 10, 15, 20, 25, 30), _RERANKED),
    *(
        Curve(
            f"RERANK_WEIGHT, {blending}",
            "rerank_weight",
            (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0),
            {"blending": blending, **_RERANKED},
        )
        for blending in BLENDINGS
    ),
)


def measured(curve: Curve, tuned: Sequence[Tuned], base: Settings) -> list[dict[str, Any]]:
    """The curve on every collection: a row for each value."""
    rows = []
    around = replace(base, **curve.around)
    for value in curve.values:
        settings = replace(around, **{curve.field: value})
        for one in tuned:
            queries = list(one.scores) if settings.reranked else list(one.dataset.queries)
            ranked = [(one.ranking(query, settings), one.dataset.qrels[query]) for query in queries]
            rows.append(
                {
                    "curve": curve.name,
                    "value": value,
                    "default": value == getattr(base, curve.field),
                    "dataset": one.dataset.name,
                    "split": one.dataset.split,
                    NDCG: round(statistics.fmean(ndcg(*each) for each in ranked), 4),
                    "recall@100": round(statistics.fmean(recall(*each) for each in ranked), 4),
                    "queries": len(queries),
                }
            )
    return rows


def table(curve: Curve, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Table with a line for each collection and a column for each value."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    view = Table("", *map(str, curve.values), title=curve.name, title_justify="left")
    by_place = {(row["dataset"], row["value"]): row[NDCG] for row in rows}
    for dataset in datasets:
        view.add_row(dataset, *(f"{by_place[dataset, value]:.3f}" for value in curve.values))
    if len(datasets) > 1:
        means = [statistics.fmean(by_place[dataset, value] for dataset in datasets) for value in curve.values]
        view.add_row("mean", *(f"{mean:.4f}" for mean in means), style="bold")
    return view


async def evidence_of(datasets: Sequence[Dataset], reranked: int, console: Console) -> list[Tuned]:
    """Everything that is needed of these collections, asked for where it is not kept."""
    # Weights that give each variant's evidence back.
    environment = {**ENVIRONMENT, "SYNONYM_WEIGHT": str(EVIDENCE), "TEMPLATE_WEIGHT": str(EVIDENCE)}
    stack = LocalStack(name="tune", data=BUILD / "data" / "tune", environment=environment)
    tuned = []
    with progress_bars(console) as progress:
        async with Stages(stack) as stages:
            for dataset in datasets:
                collector = Collector(dataset, FOLDER, stages, progress)
                one = Tuned(await collector.collect())
                one.scores = await collector.rerank({query: one.pool(query) for query in sample(dataset, reranked)})
                tuned.append(one)
    return tuned


def sample(dataset: Dataset, count: int) -> list[str]:
    """The same queries in every run, a few or all."""
    queries = sorted(dataset.queries)
    random.Random(5).shuffle(queries)
    return queries[:count]


def main(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Collections, or folders of them.")],
    only: Annotated[str, typer.Option(help="Curves whose name matches, as in 'RERANK*'.")] = "*",
    reranked: Annotated[int, typer.Option(metavar="N", help="Queries of each whose candidates are reranked.")] = 200,
) -> None:
    """Draw the curve of every weight on training questions, and write build/bench/tune.json.

    Takes the split `train` of a collection that has one. Another is taken whole: pass only what was made of training
    questions, and never what is reported. What the stages said is kept: the second run takes seconds.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    console = wide_console()
    try:
        datasets = [load(folder, "train" if has_split(folder, "train") else TEST) for folder in find(folders)]
        tuned = asyncio.run(evidence_of(datasets, reranked, console))
    except StartupError as error:
        say(error, console)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped; start again to go on.")
        sys.exit(130)
    rows = []
    for curve in CURVES:
        if fnmatchcase(curve.name, only):
            rows += (found := measured(curve, tuned, Settings()))
            console.print(table(curve, found))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    console.print(f"All curves are in {shown(FILE)}")


if __name__ == "__main__":
    typer.run(main)
