"""One function for each thing that is measured; each keeps its rows as soon as it has them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from rich.progress import Progress

from bench.quality import asking, measures
from bench.quality.beir import Dataset
from bench.quality.kept import Kept
from bench.rerank import results, timing
from bench.rerank.methods import CANDIDATES, EVERYTHING, HYBRID, METHODS, Method
from bench.rerank.peers import peers
from bench.rerank.platform import Platform
from bench.rerank.results import Row, cost
from bench.speed.results import load as load_rows
from deploy.local.paths import BUILD

KEPT = BUILD / "bench" / "rerank"
LATE, CASCADE, CROSS_ENCODER = (METHODS[key] for key in ("late@50", "cascade@50", "cross_encoder@20"))
WINDOW_SECONDS = {HYBRID: 4.0, LATE: 4.0, CASCADE: 6.0, CROSS_ENCODER: 12.0}
LOADED_SECONDS = 20.0
RATE_ROUNDS = 3
# Calls of the other libraries take seconds.
PEER_QUESTIONS = {20: 5, 50: 2}


async def quality(
    running: Platform,
    dataset: Dataset,
    collection: str,
    methods: Sequence[Method],
    questions: int | None,
    progress: Progress,
) -> None:
    """nDCG@10 of every method, answered by the running services."""
    settings = json.dumps(running.settings, sort_keys=True)
    models = await asking.models_of(running.client)
    parts = (dataset.digest, settings, asking.code_digest(), models, running.token_model)
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    queries = list(islice(dataset.queries.items(), questions))
    runs: dict[Method, measures.Run] = {}
    for method in methods:
        bar = progress.add_task(f"{dataset.name}: {method.key}", total=len(queries))
        kept = Kept(KEPT / dataset.name / f"{method.key}.jsonl", key)
        advance = partial(progress.advance, bar)
        found = await asking.ask(running.client, collection, queries, method.config, kept, on_progress=advance)
        runs[method] = found.run
    if questions is None:
        results.store(results.quality_rows(dataset.name, dataset.qrels, runs))
    else:
        progress.console.print(results.table(results.quality_rows(dataset.name, dataset.qrels, runs)))


def means(datasets: Sequence[Dataset]) -> list[Row]:
    """The mean of nDCG@10 over the collections, against today's cross-encoder."""
    rows = load_rows(results.FILE)
    found = []
    for method in METHODS.values():
        values = {
            row["collection"]: row["ndcg10"]
            for row in rows
            if (row["method"], row["candidates"]) == (method.name, method.candidates) and row["ndcg10"] is not None
        }
        if all(dataset.name in values for dataset in datasets):
            mean = sum(values[dataset.name] for dataset in datasets) / len(datasets)
            found.append(cost(f"mean nDCG@10, {method.key}", mean, "", collections=len(datasets)))
    means = {each["name"].split(", ")[1]: each["value"] for each in found}
    for method in (LATE, CASCADE):
        if method.key in means and CROSS_ENCODER.key in means:
            less = means[method.key] - means[CROSS_ENCODER.key]
            found.append(cost(f"mean nDCG@10, {method.key} less {CROSS_ENCODER.key}", less, "", ">= -0.005"))
    return found


async def times(asked: Mapping[str, timing.Asking], methods: Sequence[Method], progress: Progress) -> None:
    """Times of every method on every collection, one caller at a time, and the worst of them."""
    worst: dict[str, dict[Method, float]] = {"added p50": {}, "added p99": {}, "search p99": {}}
    for collection, asked_one in asked.items():
        bar = progress.add_task(f"{collection}: one caller", total=len(asked_one.questions))
        advance = partial(progress.advance, bar)
        found = await timing.alone(asked_one, [*methods, EVERYTHING], advance)
        rows = results.time_rows(collection, found, processor())
        results.store([row for row in rows if row["method"] != EVERYTHING.name])
        for row, method in zip(rows, found, strict=True):
            for name, of_method in worst.items():
                of_method[method] = max(of_method.get(method, 0.0), row[f"{name.replace(' ', '_')}_ms"])
    bounds = {
        ("added p50", LATE): "<= 25",
        ("added p99", LATE): "<= 50",
        ("search p99", LATE): "<= 100",
        ("search p99", EVERYTHING): "<= 150",
    }
    results.store_costs(
        [
            cost(f"{name}, one caller, {method.key}, slowest collection", worst[name][method], "ms", bound)
            for (name, method), bound in bounds.items()
            if method in worst[name]
        ]
    )


async def load(asked_one: timing.Asking, collection: str, progress: Progress) -> None:
    """Answers a second to several callers, and times under a part of that load."""
    bar = progress.add_task(f"{collection}: several callers", total=RATE_ROUNDS * len(WINDOW_SECONDS))
    rates = await timing.rates(asked_one, WINDOW_SECONDS, RATE_ROUNDS, lambda: progress.advance(bar))
    found = [
        cost(f"saturated, {method.key}", rate, "searches/s", callers=timing.CALLERS, collection=collection)
        for method, rate in rates.items()
    ]
    ratio = rates[LATE] / rates[CROSS_ENCODER]
    found.append(cost(f"saturated, {LATE.key} over {CROSS_ENCODER.key}", ratio, "", ">= 15"))
    everything = await timing.saturated(asked_one, EVERYTHING, WINDOW_SECONDS[LATE])
    bounds = {HYBRID: "", LATE: "<= 100", CASCADE: "", EVERYTHING: "<= 150"}
    bar = progress.add_task(f"{collection}: load of {timing.LOAD:g}", total=len(bounds))
    for method, bound in bounds.items():
        rate = timing.LOAD * {**rates, EVERYTHING: everything}[method]
        under = await timing.loaded(asked_one, method, rate, LOADED_SECONDS)
        details = {"rate": round(rate, 1), "p50_ms": round(under.p50_ms, 2), "searches": under.searches}
        name = f"search p99, {timing.LOAD:g} of saturation, {method.key}"
        found.append(cost(name, under.p99_ms, "ms", bound, failed=under.failed, **details))
        progress.advance(bar)
    results.store_costs(found)


async def against_peers(asked_one: timing.Asking, collection: str, progress: Progress) -> None:
    """Reranking alone, ours and theirs, on the same questions and candidates, in turn."""
    ours = {count: [METHODS[f"{name}@{count}"] for name in ("late", "cascade")] for count in CANDIDATES}
    bar = progress.add_task("other libraries", total=sum(PEER_QUESTIONS.values()))
    with peers() as others:
        for count, questions in PEER_QUESTIONS.items():
            took: dict[str, list[float]] = {name: [] for name in [*others, "late", "cascade"]}
            for question in asked_one.questions[:questions]:
                found, alone = await asked_one.ask(HYBRID, question, limit=count)
                passages = [f"{each.passage.title}\n{each.passage.text}" for each in found.results]
                for method in ours[count]:
                    took[method.name].append((await asked_one.ask(method, question))[1] - alone)
                for name, peer in others.items():
                    took[name].append(await asyncio.to_thread(peer.milliseconds, question, passages))
                progress.advance(bar)
            medians = {name: sorted(each)[len(each) // 2] for name, each in took.items()}
            results.store(
                [
                    results.row(name, count, collection, added_p50_ms=round(medians[name], 1), timed=questions)
                    for name in others
                ]
            )
            results.store_costs(
                [
                    cost(f"{name} over {own}, {count} candidates", medians[name] / medians[own], "times", bound)
                    for name in others
                    for own, bound in (("late", ">= 20"), ("cascade", ">= 3"))
                ]
            )


def processor() -> str:
    """Name of the processor, as the kernel tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def sample(dataset: Dataset, count: int) -> list[str]:
    """The same questions in every run."""
    questions = sorted(dataset.queries.values())
    random.Random(17).shuffle(questions)
    return questions[:count]
