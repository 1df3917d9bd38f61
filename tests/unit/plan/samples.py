"""Measurements in round figures: nothing takes time but what holds a stage."""

from sluice_plan import Feature, Measurements, Stage
from sluice_plan.measurements import ModelPace, Origin, SearchCost, StageCost

CV = 0.3


def cost(busy_ms: float, cpu_ms: float, *, calls: float = 1.0, passes: float = 0.0, tokens: float = 0.0) -> StageCost:
    return StageCost(
        wall_ms=busy_ms, wall_cv=CV, busy_ms=busy_ms, cpu_ms=cpu_ms, calls=calls, passes=passes, tokens=tokens
    )


def measurements(connections: int = 1) -> Measurements:
    plain: dict[Stage, StageCost] = {
        "gateway": cost(3, 3),
        "embedder": cost(3, 5, passes=1, tokens=16),
        "retriever": cost(8, 8),
    }
    expanded: dict[Stage, StageCost] = {
        "gateway": cost(4, 4),
        "expander": cost(2, 2),
        "embedder": cost(8, 14, calls=2, passes=2, tokens=64),
        "retriever": cost(12, 12),
    }
    reranker = cost(40, 76, passes=2, tokens=280)
    stages: dict[tuple[Feature, ...], dict[Stage, StageCost]] = {
        (): plain,
        ("expansion",): expanded,
        ("rerank",): {**plain, "reranker": reranker},
        ("expansion", "rerank"): {**expanded, "reranker": reranker},
    }
    return Measurements(
        measured=Origin(
            at="2026-11-22T04:10:00+00:00",
            machine="sample, 2 processors",
            cores=2,
            release="0.1.0",
            passages=1000,
            connections=connections,
            searches=800,
            busy_before=0.01,
        ),
        models={
            "embedder": pace("encoder", 1.5, 0.05, 1.7),
            "reranker": pace("cross-encoder", 3.0, 0.12, 1.9),
        },
        searches=tuple(
            SearchCost(
                features=features,
                wall_ms=sum(one.wall_ms for stage, one in of.items() if stage != "expander"),
                wall_cv=0.2,
                caller_cpu_ms=1.0,
                candidates=4 if "rerank" in features else 0,
                stages=of,
            )
            for features, of in stages.items()
        ),
    )


def pace(name: str, pass_ms: float, token_ms: float, cores: float) -> ModelPace:
    return ModelPace(
        name=name, runtime="openvino int8 on cpu", pass_ms=pass_ms, token_ms=token_ms, cores=cores, batch_tokens=512
    )
