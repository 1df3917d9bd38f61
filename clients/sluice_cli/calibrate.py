"""`sluice plan calibrate`: asks a running stack, one search at a time, and reads its own counters of what that cost.

Nothing in here starts anything or needs more than the gateway and the metrics of the stages, so it measures a stack on
this machine and pods behind port-forwards alike. Each stage has to have one replica, and nobody else may be asking.
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
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from sluice_cli.calls import Problem
from sluice_client import Answer, Config, Features, Outcome, SluiceClient, Stage, StageConfig, Strategy
from sluice_plan.measurements import MODEL_STAGES, STAGES, Feature, Measurements, ModelPace, SearchCost, StageCost
from sluice_plan.measurements import Stage as PlanStage

ROUNDS = 4
SEARCH_SECONDS = 10.0
_WARM_UP_SEARCHES = 20
_SCRAPE_SECONDS = 5.0
# Twice as many and half as many candidates and variants as are planned with: what tells a pass from its tokens.
_CANDIDATE_SHARES = (0.25, 0.5, 2.0)
_VARIANT_COUNTS = (2, 8)
_STEPS: Mapping[Stage, PlanStage] = {
    Stage.EXPAND: "expander",
    Stage.EMBED: "embedder",
    Stage.RETRIEVE: "retriever",
    Stage.RERANK: "reranker",
}
_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}  # BATCH_TOKENS=0, by device
_WORDS_TO_START_WITH = ("how", "what", "when", "error", "file", "time", "list", "value", "number", "name")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure, and where."""

    metrics: Mapping[PlanStage, str]
    """URL of each stage's metrics."""
    collection: str
    queries: Sequence[str]
    """Questions as people ask them; made of what is stored where there are none."""
    candidates: int
    searches: int
    """Searches for each set of features, in all rounds together."""
    batch_tokens: int
    """Of the model stages; 0 is their default for their device."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a stage has counted since its start. Differences are what is of use."""

    cpu_seconds: float
    held_seconds: float
    """Time in the model, or in Qdrant, waiting for a connection included."""
    passes: float
    tokens: float

    def since(self, earlier: Counters) -> Counters:
        """What came since."""
        return Counters(
            self.cpu_seconds - earlier.cpu_seconds,
            self.held_seconds - earlier.held_seconds,
            self.passes - earlier.passes,
            self.tokens - earlier.tokens,
        )

    def plus(self, other: Counters) -> Counters:
        """Both together."""
        return Counters(
            self.cpu_seconds + other.cpu_seconds,
            self.held_seconds + other.held_seconds,
            self.passes + other.passes,
            self.tokens + other.tokens,
        )


NOTHING = Counters(0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class Spent:
    """What searches of one kind took."""

    walls: list[float] = field(default_factory=list)
    stage_walls: dict[PlanStage, list[float]] = field(default_factory=lambda: defaultdict(list))
    counters: dict[PlanStage, Counters] = field(default_factory=lambda: defaultdict(lambda: NOTHING))
    caller_cpu_seconds: float = 0.0


async def calibrate(client: SluiceClient, wanted: Wanted, on_progress: Callable[[int, int], None]) -> Measurements:
    """Measures. Raises Problem where the stack does not do what is to be measured, SluiceError where it fails."""
    config = await client.config(wanted.collection)
    if not config.collection.exists or not config.collection.document_count:
        raise Problem(
            f"the collection {config.collection.name!r} is empty: there is nothing to search",
            "store documents like those to be served with `sluice index`, or name another with --collection",
        )
    connections = int(_summed(await _scraped(wanted.metrics["retriever"]), "qdrant_pool_size") or 1)
    queries = wanted.queries or await _queries_of(client, wanted.collection)
    busy = await asyncio.to_thread(_busy_share)
    kinds = _kinds(wanted.candidates)
    spent = {kind: Spent() for kind in kinds}
    asked = _unheard(queries)
    for kind in kinds:
        await _ask(client, wanted, kind, asked, -(-_WARM_UP_SEARCHES // len(kinds)), Spent())
    done = 0
    for number in range(ROUNDS):
        # Every second round backwards, so that drift meets all kinds alike.
        for kind in kinds if number % 2 == 0 else kinds[::-1]:
            before = await read_counters(wanted.metrics)
            await _ask(client, wanted, kind, asked, -(-wanted.searches // ROUNDS), spent[kind])
            after = await read_counters(wanted.metrics)
            for stage in STAGES:
                spent[kind].counters[stage] = spent[kind].counters[stage].plus(after[stage].since(before[stage]))
            done += 1
            on_progress(done, ROUNDS * len(kinds))
    return _measurements(config, wanted, spent, connections, busy)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to search."""

    features: frozenset[Feature]
    candidates: int = 0
    variants: int | None = None
    """Most variants, made by templates, which any query has enough of; None is what the gateway does by itself."""
    planned: bool = True
    """Whether searches of this kind are planned for, or only tell a pass from its tokens."""

    def as_features(self) -> Features:
        return Features(
            dense=True,
            expansion="expansion" in self.features,
            expansion_strategy=Strategy.MULTI_QUERY if self.variants else None,
            max_variant_count=self.variants,
            rerank="rerank" in self.features,
            rerank_candidate_count=self.candidates or None,
        )


def _kinds(candidates: int) -> list[_Kind]:
    expansion: frozenset[Feature] = frozenset({"expansion"})
    rerank: frozenset[Feature] = frozenset({"rerank"})
    others = {max(1, round(candidates * share)) for share in _CANDIDATE_SHARES} - {candidates}
    return [
        _Kind(frozenset()),
        _Kind(expansion),
        _Kind(rerank, candidates),
        _Kind(expansion | rerank, candidates),
        *(_Kind(rerank, count, planned=False) for count in sorted(others)),
        *(_Kind(expansion, variants=count, planned=False) for count in _VARIANT_COUNTS),
    ]


async def _ask(
    client: SluiceClient, wanted: Wanted, kind: _Kind, asked: Iterator[str], count: int, spent: Spent
) -> None:
    features = kind.as_features()
    cpu = time.process_time()
    for query in itertools.islice(asked, count):
        started = time.perf_counter()
        answer = await client.search(query, collection=wanted.collection, features=features, timeout=SEARCH_SECONDS)
        spent.walls.append(time.perf_counter() - started)
        _check(answer, kind)
        for report in answer.stages:
            if report.outcome is not Outcome.SKIPPED:
                spent.stage_walls[_STEPS[report.stage]].append(report.seconds)
    spent.caller_cpu_seconds += time.process_time() - cpu


def _check(answer: Answer, kind: _Kind) -> None:
    """What was not done is not measured."""
    wanted = {Stage.EMBED, Stage.RETRIEVE}
    wanted |= {Stage.EXPAND} if "expansion" in kind.features else set()
    wanted |= {Stage.RERANK} if "rerank" in kind.features else set()
    for report in answer.stages:
        if report.stage in wanted and report.outcome is not Outcome.RAN:
            raise Problem(
                f"{report.stage} {report.outcome} while it was measured: {report.reason} {report.detail}",
                "`sluice doctor` says what is wrong; measure with models that serve and documents that are found",
            )
        if report.stage is Stage.RERANK and Stage.RERANK in wanted and report.item_count < kind.candidates:
            raise Problem(
                f"only {report.item_count} candidates were found where {kind.candidates} are to be reranked",
                "store more documents, or plan with fewer: --candidates",
            )


def _unheard(queries: Sequence[str]) -> Iterator[str]:
    """The questions in turn, each with a number: nobody asked that before, so no cache answers."""
    start = time.time_ns() // 1_000_000 % 10**7
    for number, query in enumerate(itertools.cycle(queries), start):
        yield f"{query} {number}"


async def _queries_of(client: SluiceClient, collection: str) -> list[str]:
    """Questions made of what is stored: the first words of what some plain words find."""
    found: dict[str, str] = {}
    for word in _WORDS_TO_START_WITH:
        answer = await client.search(
            word, collection=collection, limit=50, features=Features(expansion=False, rerank=False)
        )
        for result in answer.results:
            found[result.id] = " ".join(f"{result.title} {result.text}".split()[:8])
    if not found:
        raise Problem(
            "nothing was found to make questions of", "give questions as people ask them, one a line: --queries FILE"
        )
    return list(found.values())


async def read_counters(urls: Mapping[PlanStage, str]) -> dict[PlanStage, Counters]:
    """What every stage has counted. Raises Problem where its metrics cannot be had."""
    scrapes = await asyncio.gather(*(_scraped(urls[stage]) for stage in STAGES))
    return {
        stage: Counters(
            cpu_seconds=_summed(scrape, "process_cpu_seconds_total"),
            held_seconds=_summed(scrape, "sluice_batch_compute_seconds_sum")
            + _summed(scrape, "qdrant_search_seconds_sum"),
            passes=_summed(scrape, "sluice_batch_compute_seconds_count"),
            tokens=_summed(scrape, "sluice_computed_tokens_total") + _summed(scrape, "sluice_padding_tokens_total"),
        )
        for stage, scrape in zip(STAGES, scrapes, strict=True)
    }


def _summed(scrape: str, series: str) -> float:
    """The values of a series, over all labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if sample.name == series
    )


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
    config: Config, wanted: Wanted, spent: Mapping[_Kind, Spent], connections: int, busy: float
) -> Measurements:
    cores = len(os.sched_getaffinity(0))
    # OpenVINO computes as many passes at once as there are processors (docs/adr/0017-int8-streams.md). Such a model is
    # planned with as one that is so many times as quick.
    at_once = {stage: cores if "openvino" in _about(stage, config).runtime else 1 for stage in MODEL_STAGES}
    costs = {kind: _search_cost(kind, done, connections, at_once) for kind, done in spent.items()}
    models = {stage: _pace(stage, _about(stage, config), wanted, spent, at_once[stage]) for stage in MODEL_STAGES}
    return Measurements(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        cores=cores,
        release=config.release,
        passages=config.collection.document_count,
        connections=connections,
        searches_measured=sum(len(done.walls) for done in spent.values()),
        busy_before=busy,
        models=models,
        searches={kind.features: costs[kind] for kind in spent if kind.planned},
    )


def _search_cost(kind: _Kind, spent: Spent, connections: int, at_once: Mapping[PlanStage, int]) -> SearchCost:
    searches = len(spent.walls)
    stages: dict[PlanStage, StageCost] = {}
    others = [sum(seconds) for seconds in zip(*_critical(spent), strict=True)]
    for stage in STAGES:
        counters = spent.counters[stage]
        cpu = counters.cpu_seconds / searches
        if stage == "gateway":
            walls = [wall - other for wall, other in zip(spent.walls, others, strict=True)]
        elif stage in spent.stage_walls:
            walls = spent.stage_walls[stage]
        else:
            continue
        wall = statistics.fmean(walls)
        held = cpu  # an event loop, or an engine that one thread runs
        if stage in MODEL_STAGES:
            held = counters.held_seconds / searches / at_once[stage]
        elif stage == "retriever" and connections > 1:
            held = counters.held_seconds / searches
        stages[stage] = StageCost(
            wall_seconds=wall,
            wall_cv=statistics.pstdev(walls) / wall,
            busy_seconds=held,
            cpu_seconds=cpu,
            calls=2.0 if stage == "embedder" and "expansion" in kind.features else 1.0,
            passes=counters.passes / searches,
            tokens=counters.tokens / searches,
        )
    wall = statistics.fmean(spent.walls)
    return SearchCost(
        wall_seconds=wall,
        wall_cv=statistics.pstdev(spent.walls) / wall,
        caller_cpu_seconds=spent.caller_cpu_seconds / searches,
        candidates=kind.candidates,
        stages=stages,
    )


def _critical(spent: Spent) -> list[list[float]]:
    """The stages that a search waits for one after the other; expansion is beside the first embedding."""
    return [walls for stage, walls in spent.stage_walls.items() if stage != "expander"]


def _about(stage: PlanStage, config: Config) -> StageConfig:
    step = next(step for step, name in _STEPS.items() if name == stage)
    return next(found for found in config.stages if found.stage is step)


def _pace(
    stage: PlanStage, about: StageConfig, wanted: Wanted, spent: Mapping[_Kind, Spent], at_once: int
) -> ModelPace:
    """The line through all kinds of searches: their time in the model by their passes and tokens."""
    used = [(done.counters[stage], len(done.walls)) for done in spent.values() if done.counters[stage].passes]
    per_search = np.array([[one.passes / n, one.tokens / n, one.held_seconds / n / at_once] for one, n in used])
    pass_seconds, token_seconds = _nonnegative(per_search[:, :2], per_search[:, 2])
    # Processor time by searches and by time in the model: the second is how many processors a pass keeps busy.
    cpu = np.array([[1.0, one.held_seconds / n / at_once] for one, n in used])
    _call, cores = _nonnegative(cpu, np.array([one.cpu_seconds / n for one, n in used]))
    return ModelPace(
        name=about.model,
        runtime=about.runtime,
        pass_seconds=pass_seconds,
        token_seconds=token_seconds,
        cores=cores,
        batch_tokens=wanted.batch_tokens or _BATCH_TOKENS["cuda" if "cuda" in about.runtime else "cpu"],
    )


def _nonnegative(factors: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Least squares in two unknowns of which neither is below zero (the active set of one, Lawson and Hanson 1974)."""
    (first, second), *_ = np.linalg.lstsq(factors, values, rcond=None)
    if first < 0:
        return 0.0, float(factors[:, 1] @ values / (factors[:, 1] @ factors[:, 1]))
    if second < 0:
        return float(factors[:, 0] @ values / (factors[:, 0] @ factors[:, 0])), 0.0
    return float(first), float(second)


def _machine() -> str:
    model = ""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = found[1] if found else ""
    except OSError:
        pass
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} processors"


def _busy_share() -> float:
    """The share of all processors' time that was not idle in one second, time stolen by the host included (proc(5))."""

    def ticks() -> list[int]:
        return [int(count) for count in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]

    try:
        before = ticks()
        time.sleep(1.0)
        spent = [after - earlier for after, earlier in zip(ticks(), before, strict=True)]
    except OSError:
        return 0.0
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))
