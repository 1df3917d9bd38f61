"""Measurements of a running stack: the cost of searches to its stages, one search at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Stage = Literal["gateway", "expander", "embedder", "retriever", "reranker"]
STAGES: tuple[Stage, ...] = ("gateway", "expander", "embedder", "retriever", "reranker")
MODEL_STAGES: tuple[Stage, ...] = ("embedder", "reranker")
Feature = Literal["expansion", "rerank"]
FEATURES: tuple[Feature, ...] = ("expansion", "rerank")

Milliseconds = Annotated[
    float, Field(ge=0, lt=3_600_000, allow_inf_nan=False), AfterValidator(lambda value: round(value, 4))
]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(lambda value: round(value, 3))]


class UnfitMeasurementsError(ValueError):
    """Measurements that nothing can be planned from; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageCost(_Part):
    """Cost of one search to one stage, all its calls together; for the gateway, without its waiting for others."""

    wall_ms: Milliseconds
    """From the caller's request to the answer."""
    wall_cv: Amount
    """Standard deviation of that over its mean."""
    busy_ms: Milliseconds
    """Part of it that holds what the stage has one of: the model, the event loop, a connection to Qdrant."""
    cpu_ms: Milliseconds
    """Processor time of the stage's process."""
    calls: Amount = 1.0
    passes: Amount = 0.0
    """Passes through the model."""
    tokens: Amount = 0.0
    """Tokens through the model, padding included."""


class SearchCost(_Part):
    """Cost of one search with some features on."""

    features: tuple[Feature, ...]
    wall_ms: Milliseconds
    wall_cv: Amount
    caller_cpu_ms: Milliseconds
    """Processor time of the caller, which matters where it shares the machine."""
    candidates: int
    """Candidates that are reranked; 0 without reranking."""
    stages: dict[Stage, StageCost]
    """Those that take part."""


class ModelPace(_Part):
    """Speed of a model: a pass takes `pass_ms` plus `token_ms` for each padded token."""

    name: str
    runtime: str
    """As in "onnx fp32 on cpu"."""
    pass_ms: Milliseconds
    token_ms: Milliseconds
    cores: Amount
    """Processors that a pass keeps busy."""
    batch_tokens: int
    """Most padded tokens of one pass (BATCH_TOKENS)."""


class Origin(_Part):
    """Place and time of the measurement."""

    at: str
    """ISO 8601."""
    machine: str
    cores: Annotated[int, Field(ge=1)]
    release: str
    passages: int
    """In the collection that was searched."""
    connections: Annotated[int, Field(ge=1)]
    """To Qdrant; 1 for the embedded engine."""
    searches: int
    busy_before: Amount
    """Share of the machine that others used just before."""


class Measurements(_Part):
    """A calibration, as in its file."""

    format: Literal[1] = 1
    measured: Origin
    models: dict[Stage, ModelPace]
    searches: tuple[SearchCost, ...]

    @classmethod
    def from_json(cls, text: str | bytes) -> Measurements:
        """Read a file's content; raises UnfitMeasurementsError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnfitMeasurementsError(
                f"not measurements of `sluice plan calibrate`: {where} {first['msg']}".replace(":  ", ": ")
            ) from error

    def cost(self, features: Collection[Feature], candidates: int | None = None) -> SearchCost:
        """Cost of a search; reranking scales with the number of candidates. Raises UnfitMeasurementsError."""
        cost = next((cost for cost in self.searches if set(cost.features) == set(features)), None)
        if cost is None:
            named = " and ".join(sorted(features)) or "no features"
            raise UnfitMeasurementsError(f"searches with {named} were not measured")
        if candidates is None or not cost.candidates or candidates == cost.candidates:
            return cost
        before, pace, ratio = cost.stages["reranker"], self.models["reranker"], candidates / cost.candidates
        passes, tokens = max(1.0, before.passes * ratio), before.tokens * ratio
        busy = passes * pace.pass_ms + tokens * pace.token_ms
        around = (before.wall_ms - before.busy_ms) * max(1.0, ratio)  # tokenizing and sending passages
        change = {"busy_ms": busy, "passes": passes, "tokens": tokens, "wall_ms": around + busy}
        reranker = before.model_copy(update={**change, "cpu_ms": before.cpu_ms * busy / before.busy_ms})
        return cost.model_copy(
            update={
                "wall_ms": cost.wall_ms - before.wall_ms + reranker.wall_ms,
                "candidates": candidates,
                "stages": {**cost.stages, "reranker": reranker},
            }
        )
