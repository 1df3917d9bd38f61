"""`sluice plan calibrate`: asks a running stack, one search at a time, and reads the cost from its stages' counters.

It needs no more than the gateway and the stages' metrics, so it measures a stack on this machine and pods behind
port-forwards alike. Each stage has one replica, and no one else asks meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import re
import statistics
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from scipy.optimize import nnls

from sluice.type.v1.features_pb2 import EXPANSION_STRATEGY_MULTI_QUERY, RERANK_METHOD_CROSS_ENCODER
from sluice_cli.calls import Problem
from sluice_client import Answer, AsyncClient, Config, Features, Outcome
from sluice_client import Stage as Step
from sluice_plan import MODEL_STAGES, STAGES, Feature, Measurements, Stage
from sluice_plan.measurements import ModelPace, Origin, SearchCost, StageCost

METRICS_PORTS: Mapping[Stage, int] = {
    "gateway": 9103,
    "embedder": 9104,
    "reranker": 9105,
    "expander": 9106,
    "retriever": 9107,
}
"""Ports where `make up` serves metrics."""
ROUNDS = 4
SEARCH_SECONDS = 10.0
_WARM_UP_SEARCHES = 20
_SCRAPE_SECONDS = 5.0
# More and fewer candidates and variants than are planned with tell a pass from its tokens.
_CANDIDATE_SHARES = (0.25, 0.5, 2.0)
_VARIANT_COUNTS = (2, 8)
_STEPS: Mapping[Stage, Step] = {
    "expander": Step.EXPAND,
    "embedder": Step.EMBED,
    "retriever": Step.RETRIEVE,
    "reranker": Step.RERANK,
}
_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}  # BATCH_TOKENS=0, by device
_QUESTIONS = 500  # made of what is stored
# Counters of a stage since its start. "held" is time in the model, or in Qdrant with the wait for a connection.
_SERIES: Mapping[str, Sequence[str]] = {
    "cpu": ["process_cpu_seconds_total"],
    "held": ["sluice_batch_compute_seconds_sum", "qdrant_search_seconds_sum"],
    "passes": ["sluice_batch_compute_seconds_count"],
    "tokens": ["sluice_computed_tokens_total", "sluice_padding_tokens_total"],
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Searches to measure."""

    collection: str
    queries: Sequence[str]
    """Questions as users ask them; made of what is stored if empty."""
    candidates: int
    searches: int
    """Searches for each set of features, in all rounds together."""
    batch_tokens: int
    """Of the model stages; 0 is their default for their device."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to search."""

    features: tuple[Feature, ...]
    candidates: int = 0
    variants: int | None = None
    """Most variants, made by templates, which any query has enough of; None is the gateway's default."""
    planned: bool = True
    """True if searches of this kind are planned for; others only tell a pass from its tokens."""

    def as_features(self) -> Features:
        features = Features(dense=True, expansion="expansion" in self.features, rerank="rerank" in self.features)
        if self.variants:
            features.expansion_strategy = EXPANSION_STRATEGY_MULTI_QUERY
            features.max_variant_count = self.variants
        if self.candidates:
            features.rerank_method = RERANK_METHOD_CROSS_ENCODER
            features.rerank_candidate_count = self.candidates
        return features

    def steps(self) -> set[Step]:
        optional = {"expansion": Step.EXPAND, "rerank": Step.RERANK}
        return {Step.EMBED, Step.RETRIEVE, *(optional[feature] for feature in self.features)}


@dataclass(slots=True)
class _Spent:
    """Cost of the searches of one kind."""

    walls: list[float] = field(default_factory=list)
    """Milliseconds."""
    stage_walls: dict[Step, list[float]] = field(default_factory=lambda: defaultdict(list))
    counters: dict[Stage, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    caller_cpu_seconds: float = 0.0


async def calibrate(
    client: AsyncClient, wanted: Wanted, metrics: Mapping[Stage, str], on_progress: Callable[[int, int], None]
) -> Measurements:
    """Measure. Raises Problem where the stack does not do what is to be measured, SluiceError where it fails.

    `metrics` are the URLs of each stage's metrics.
    """
    config = await client.config(wanted.collection)
    if not config.collection or not config.collection.passage_count:
        raise Problem(
            "the collection is empty: there is nothing to search",
            "store documents like those to be served with `sluice index`, or name another with --collection",
        )
    connections = int(summed(await _scraped(metrics["retriever"]), "qdrant_pool_size") or 1)
    asked = _unheard(wanted.queries or await _queries_of(client, wanted.collection))
    busy = await asyncio.to_thread(_busy_share)
    kinds = _kinds(wanted.candidates)
    spent = {kind: _Spent() for kind in kinds}
    for kind in kinds:
        await _ask(client, wanted, kind, asked, -(-_WARM_UP_SEARCHES // len(kinds)), _Spent())
    done = 0
    for number in range(ROUNDS):
        # Every second round backwards, so that drift meets all kinds alike.
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            before = await read_counters(metrics)
            await _ask(client, wanted, kind, asked, -(-wanted.searches // ROUNDS), spent[kind])
            for stage, after in (await read_counters(metrics)).items():
                spent[kind].counters[stage] += after - before[stage]
            done += 1
            on_progress(done, ROUNDS * len(kinds))
    return _measurements(config, wanted, spent, connections, busy)


async def read_counters(urls: Mapping[Stage, str]) -> dict[Stage, Counter[str]]:
    """Counters of every stage. Raises Problem where its metrics cannot be had."""
    scrapes = await asyncio.gather(*(_scraped(urls[stage]) for stage in STAGES))
    return {
        stage: Counter({name: sum(summed(scrape, one) for one in series) for name, series in _SERIES.items()})
        for stage, scrape in zip(STAGES, scrapes, strict=True)
    }


def _kinds(candidates: int) -> list[_Kind]:
    others = {max(1, round(candidates * share)) for share in _CANDIDATE_SHARES} - {candidates}
    return [
        _Kind(()),
        _Kind(("expansion",)),
        _Kind(("rerank",), candidates),
        _Kind(("expansion", "rerank"), candidates),
        *(_Kind(("rerank",), count, planned=False) for count in sorted(others)),
        *(_Kind(("expansion",), variants=count, planned=False) for count in _VARIANT_COUNTS),
    ]


async def _ask(
    client: AsyncClient, wanted: Wanted, kind: _Kind, asked: Iterator[str], count: int, spent: _Spent
) -> None:
    features = kind.as_features()
    cpu = time.process_time()
    for query in itertools.islice(asked, count):
        started = time.perf_counter()
        answer = await client.search(query, collection=wanted.collection, features=features, timeout=SEARCH_SECONDS)
        spent.walls.append((time.perf_counter() - started) * 1000)
        _check(answer, kind)
        for report in answer.stages:
            if report.outcome is not Outcome.SKIPPED:
                spent.stage_walls[report.stage].append(report.duration.total_seconds() * 1000)
    spent.caller_cpu_seconds += time.process_time() - cpu


def _check(answer: Answer, kind: _Kind) -> None:
    """Refuse an answer that lacks what is to be measured."""
    for report in answer.stages:
        if report.stage in kind.steps() and report.outcome is not Outcome.RAN:
            raise Problem(
                f"{report.stage} {report.outcome} while it was measured: {report.reason} {report.detail}",
                "`sluice doctor` says what is wrong; measure with models that serve and documents that are found",
            )
        if report.stage is Step.RERANK and report.item_count < kind.candidates:
            raise Problem(
                f"only {report.item_count} candidates were found where {kind.candidates} are to be reranked",
                "store more documents, or plan with fewer: --candidates",
            )


def _unheard(queries: Sequence[str]) -> Iterator[str]:
    """The questions in turn, each with a new number, so that no cache answers."""
    start = time.time_ns() // 1_000_000 % 10**7
    for number, query in enumerate(itertools.cycle(queries), start):
        yield f"{query} {number}"


async def _queries_of(client: AsyncClient, collection: str) -> list[str]:
    """Questions made of what is stored: the first words of documents."""
    questions = []
    async for stored in client.list_documents(collection=collection):
        questions.append(" ".join(f"{stored.document.title} {stored.document.text}".split()[:8]))
        if len(questions) == _QUESTIONS:
            break
    return questions


def summed(scrape: str, series: str) -> float:
    """Sum of a series over all labels."""
    samples = (sample for family in text_string_to_metric_families(scrape) for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == series)


async def _scraped(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=_SCRAPE_SECONDS) as reply:  # noqa: S310  # the operator's own URL
            text: str = reply.read().decode()
            return text

    try:
        return await asyncio.to_thread(get)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Problem(
            f"no metrics at {url}: {error}",
            "start a stack with `make up`, or say where each stage's metrics are: --metrics embedder=http://HOST:PORT/metrics",
        ) from error


def _measurements(
    config: Config, wanted: Wanted, spent: Mapping[_Kind, _Spent], connections: int, busy: float
) -> Measurements:
    cores = len(os.sched_getaffinity(0))
    models = {stage: about.model for stage in MODEL_STAGES for about in config.stages if about.stage is _STEPS[stage]}
    paces = {}
    for stage, model in models.items():
        if model is None:
            raise Problem(f"the {stage} does not say which model serves", "`sluice doctor` says what is wrong")
        # OpenVINO computes as many passes at once as there are processors (docs/adr/0017-int8-streams.md). Such a model
        # is planned with as one that is that many times as fast.
        at_once = cores if model.backend == "openvino" else 1
        for done in spent.values():
            done.counters[stage]["held"] /= at_once  # type: ignore[assignment]
        pass_ms, token_ms, busy_cores = pace([(done.counters[stage], len(done.walls)) for done in spent.values()])
        paces[stage] = ModelPace(
            name=model.name,
            runtime=f"{model.backend} {model.precision} on {model.device}",
            pass_ms=pass_ms,
            token_ms=token_ms,
            cores=busy_cores,
            batch_tokens=wanted.batch_tokens or _BATCH_TOKENS.get(model.device, _BATCH_TOKENS["cpu"]),
        )
    return Measurements(
        measured=Origin(
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=_machine(),
            cores=cores,
            release=config.release,
            passages=config.collection.passage_count if config.collection else 0,
            connections=connections,
            searches=sum(len(done.walls) for done in spent.values()),
            busy_before=busy,
        ),
        models=paces,
        searches=tuple(_search_cost(kind, done, connections) for kind, done in spent.items() if kind.planned),
    )


def _search_cost(kind: _Kind, spent: _Spent, connections: int) -> SearchCost:
    stages: dict[Stage, StageCost] = {}
    # The steps that a search waits for one after the other; it is expanded while its first embedding is made.
    steps = [walls for step, walls in spent.stage_walls.items() if step is not Step.EXPAND]
    gateway = [wall - sum(others) for wall, *others in zip(spent.walls, *steps, strict=True)]
    for stage in STAGES:
        walls = gateway if stage == "gateway" else spent.stage_walls.get(_STEPS[stage])
        if not walls:
            continue
        one = {name: count / len(spent.walls) for name, count in spent.counters[stage].items()}
        # An event loop, or an engine that one thread runs, is held as long as it computes.
        counted = stage in MODEL_STAGES or (stage == "retriever" and connections > 1)
        stages[stage] = StageCost(
            wall_ms=statistics.fmean(walls),
            wall_cv=statistics.pstdev(walls) / statistics.fmean(walls),
            busy_ms=one.get("held" if counted else "cpu", 0.0) * 1000,
            cpu_ms=one.get("cpu", 0.0) * 1000,
            calls=2.0 if stage == "embedder" and "expansion" in kind.features else 1.0,
            passes=one.get("passes", 0.0),
            tokens=one.get("tokens", 0.0),
        )
    wall = statistics.fmean(spent.walls)
    return SearchCost(
        features=kind.features,
        wall_ms=wall,
        wall_cv=statistics.pstdev(spent.walls) / wall,
        caller_cpu_ms=spent.caller_cpu_seconds * 1000 / len(spent.walls),
        candidates=kind.candidates,
        stages=stages,
    )


def pace(counted: Sequence[tuple[Counter[str], int]]) -> tuple[float, float, float]:
    """Milliseconds of a pass and of a token, and processors that a pass keeps busy: lines through all kinds."""
    used = [{name: one[name] / searches for name in _SERIES} for one, searches in counted if one["passes"]]
    held = np.array([one["held"] * 1000 for one in used])
    (pass_ms, token_ms), _ = nnls(np.array([[one["passes"], one["tokens"]] for one in used]), held)
    (_call, cores), _ = nnls(np.column_stack([np.ones(len(used)), held]), np.array([one["cpu"] * 1000 for one in used]))
    return float(pass_ms), float(token_ms), float(cores)


def _machine() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return f"{found[1] if found else platform.machine()}, {len(os.sched_getaffinity(0))} processors"


def _busy_share() -> float:
    """Share of all processors' time that was not idle in one second, time stolen by the host included (proc(5))."""

    def ticks() -> list[int]:
        return [int(count) for count in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]

    try:
        before = ticks()
        time.sleep(1.0)
        spent = [after - earlier for after, earlier in zip(ticks(), before, strict=True)]
    except OSError:
        return 0.0
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))
