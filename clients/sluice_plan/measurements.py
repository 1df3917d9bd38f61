"""What was measured of a running stack: what searches cost its stages, one search at a time.

Times are in seconds here and in milliseconds in the file, which people are to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Stage = Literal["gateway", "expander", "embedder", "retriever", "reranker"]
STAGES: tuple[Stage, ...] = ("gateway", "expander", "embedder", "retriever", "reranker")
MODEL_STAGES: tuple[Stage, ...] = ("embedder", "reranker")
Feature = Literal["expansion", "rerank"]
FEATURES: tuple[Feature, ...] = ("expansion", "rerank")

FORMAT = 1


class UnfitMeasurementsError(ValueError):
    """Measurements that nothing can be planned from; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one search asks of one stage, all its calls together. Of the gateway: what is not waiting for others."""

    wall_seconds: float
    """From the caller's request to the answer."""
    wall_cv: float
    """Standard deviation of that over its mean."""
    busy_seconds: float
    """Of that, how long it holds what the stage has one of: the model, the event loop, a connection to Qdrant."""
    cpu_seconds: float
    """Processor time of its process."""
    calls: float = 1.0
    passes: float = 0.0
    """Passes through the model."""
    tokens: float = 0.0
    """Tokens through the model, padding included."""


@dataclass(frozen=True, slots=True)
class SearchCost:
    """What one search costs with some features on."""

    wall_seconds: float
    wall_cv: float
    caller_cpu_seconds: float
    """Processor time of whoever asks, which matters where it shares the machine."""
    candidates: int
    """Candidates that are reranked; 0 where none are."""
    stages: Mapping[Stage, StageCost]
    """Those that take part."""


@dataclass(frozen=True, slots=True)
class ModelPace:
    """How long a model takes: a pass of so many padded tokens is `pass_seconds + tokens * token_seconds`."""

    name: str
    runtime: str
    """As in "onnx fp32 on cpu"."""
    pass_seconds: float
    token_seconds: float
    cores: float
    """Processors that a pass keeps busy."""
    batch_tokens: int
    """Most padded tokens of one pass (BATCH_TOKENS)."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """A calibration: what was measured, where and when."""

    measured_at: str
    """ISO 8601."""
    machine: str
    cores: int
    release: str
    passages: int
    """In the collection that was asked."""
    connections: int
    """To Qdrant; 1 where its engine is embedded."""
    searches_measured: int
    busy_before: float
    """Share of the machine that others used just before: with more than a few percent, measure again."""
    models: Mapping[Stage, ModelPace]
    searches: Mapping[frozenset[Feature], SearchCost]

    def cost(self, features: frozenset[Feature], candidates: int | None = None) -> SearchCost:
        """What a search with these features costs; with other than the measured candidates, reranking scales."""
        try:
            cost = self.searches[features]
        except KeyError:
            raise UnfitMeasurementsError(f"searches with {_named(features)} were not measured") from None
        if candidates is None or not cost.candidates or candidates == cost.candidates:
            return cost
        return _with_candidates(cost, self.models["reranker"], candidates / cost.candidates, candidates)

    def as_json(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "format": FORMAT,
            "measured": {
                "at": self.measured_at,
                "machine": self.machine,
                "cores": self.cores,
                "release": self.release,
                "passages": self.passages,
                "connections": self.connections,
                "searches": self.searches_measured,
                "busy_before": round(self.busy_before, 3),
            },
            "models": {
                stage: {
                    "name": pace.name,
                    "runtime": pace.runtime,
                    "pass_ms": _ms(pace.pass_seconds),
                    "token_ms": _ms(pace.token_seconds),
                    "cores": round(pace.cores, 3),
                    "batch_tokens": pace.batch_tokens,
                }
                for stage, pace in self.models.items()
            },
            "searches": [
                {
                    "features": sorted(features),
                    "wall_ms": _ms(cost.wall_seconds),
                    "wall_cv": round(cost.wall_cv, 3),
                    "caller_cpu_ms": _ms(cost.caller_cpu_seconds),
                    "candidates": cost.candidates,
                    "stages": {stage: _stage_json(cost.stages[stage]) for stage in STAGES if stage in cost.stages},
                }
                for features, cost in self.searches.items()
            ],
        }

    @classmethod
    def from_json(cls, content: Any) -> Measurements:
        """Reads what `as_json` wrote; raises UnfitMeasurementsError where that is not what it is."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UnfitMeasurementsError(f"not measurements of `sluice plan calibrate` (format {FORMAT})")
        try:
            return cls._read(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnfitMeasurementsError(f"damaged: {type(error).__name__} {error}") from error

    @classmethod
    def _read(cls, content: dict[str, Any]) -> Measurements:
        about = content["measured"]
        return cls(
            measured_at=str(about["at"]),
            machine=str(about["machine"]),
            cores=int(about["cores"]),
            release=str(about["release"]),
            passages=int(about["passages"]),
            connections=int(about["connections"]),
            searches_measured=int(about["searches"]),
            busy_before=float(about["busy_before"]),
            models={
                _one_of(STAGES, stage): ModelPace(
                    name=str(pace["name"]),
                    runtime=str(pace["runtime"]),
                    pass_seconds=_seconds(pace["pass_ms"]),
                    token_seconds=_seconds(pace["token_ms"]),
                    cores=float(pace["cores"]),
                    batch_tokens=int(pace["batch_tokens"]),
                )
                for stage, pace in content["models"].items()
            },
            searches={
                frozenset(_one_of(FEATURES, feature) for feature in cost["features"]): SearchCost(
                    wall_seconds=_seconds(cost["wall_ms"]),
                    wall_cv=float(cost["wall_cv"]),
                    caller_cpu_seconds=_seconds(cost["caller_cpu_ms"]),
                    candidates=int(cost["candidates"]),
                    stages={_one_of(STAGES, stage): _stage_cost(value) for stage, value in cost["stages"].items()},
                )
                for cost in content["searches"]
            },
        )


def _with_candidates(cost: SearchCost, pace: ModelPace, times: float, candidates: int) -> SearchCost:
    """The same search with another number of candidates: more or fewer tokens, in as many full passes."""
    before = cost.stages["reranker"]
    tokens = before.tokens * times
    passes = max(1.0, before.passes * times)
    busy = passes * pace.pass_seconds + tokens * pace.token_seconds
    # What is not the model's is tokenizing and sending passages: so many times as much, too.
    after = replace(
        before,
        wall_seconds=before.wall_seconds * times if times > 1 else before.wall_seconds - before.busy_seconds + busy,
        busy_seconds=busy,
        cpu_seconds=before.cpu_seconds * busy / before.busy_seconds,
        passes=passes,
        tokens=tokens,
    )
    return replace(
        cost,
        wall_seconds=cost.wall_seconds - before.wall_seconds + after.wall_seconds,
        candidates=candidates,
        stages={**cost.stages, "reranker": after},
    )


def _stage_json(cost: StageCost) -> dict[str, float]:
    return {
        "wall_ms": _ms(cost.wall_seconds),
        "wall_cv": round(cost.wall_cv, 3),
        "busy_ms": _ms(cost.busy_seconds),
        "cpu_ms": _ms(cost.cpu_seconds),
        "calls": round(cost.calls, 2),
        "passes": round(cost.passes, 3),
        "tokens": round(cost.tokens, 1),
    }


def _stage_cost(content: Mapping[str, float]) -> StageCost:
    return StageCost(
        wall_seconds=_seconds(content["wall_ms"]),
        wall_cv=float(content["wall_cv"]),
        busy_seconds=_seconds(content["busy_ms"]),
        cpu_seconds=_seconds(content["cpu_ms"]),
        calls=float(content["calls"]),
        passes=float(content["passes"]),
        tokens=float(content["tokens"]),
    )


def _one_of(known: Sequence[Any], name: str) -> Any:
    if name not in known:
        raise UnfitMeasurementsError(f"{name!r} is none of {', '.join(known)}")
    return name


def _named(features: frozenset[Feature]) -> str:
    return " and ".join(sorted(features)) or "no features"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)


def _seconds(milliseconds: float) -> float:
    value = float(milliseconds) / 1000
    if not 0 <= value < 3600:
        raise UnfitMeasurementsError(f"{milliseconds} ms is no time that anything takes")
    return value
