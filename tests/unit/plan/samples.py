"""Measurements as they could have been taken, in round figures: nothing but what holds a stage takes time."""

from sluice_plan.measurements import Feature, Measurements, ModelPace, SearchCost, Stage, StageCost

CV = 0.3


def cost(busy_ms: float, cpu_ms: float, *, calls: float = 1.0, passes: float = 0.0, tokens: float = 0.0) -> StageCost:
    return StageCost(busy_ms / 1000, CV, busy_ms / 1000, cpu_ms / 1000, calls, passes, tokens)


def measurements(connections: int = 1) -> Measurements:
    gateway, retriever = cost(3, 3), cost(8, 8)
    embedder = cost(3, 5, passes=1, tokens=16)
    expanded: dict[Stage, StageCost] = {
        "gateway": cost(4, 4),
        "expander": cost(2, 2),
        "embedder": cost(8, 14, calls=2, passes=2, tokens=64),
        "retriever": cost(12, 12),
    }
    reranker = cost(40, 76, passes=2, tokens=280)
    plain: dict[Stage, StageCost] = {"gateway": gateway, "embedder": embedder, "retriever": retriever}
    stages: dict[frozenset[Feature], dict[Stage, StageCost]] = {
        frozenset(): plain,
        frozenset({"expansion"}): expanded,
        frozenset({"rerank"}): {**plain, "reranker": reranker},
        frozenset({"expansion", "rerank"}): {**expanded, "reranker": reranker},
    }
    return Measurements(
        measured_at="2026-11-22T04:10:00+00:00",
        machine="sample, 2 processors",
        cores=2,
        release="0.1.0",
        passages=1000,
        connections=connections,
        searches_measured=800,
        busy_before=0.01,
        models={
            "embedder": ModelPace("encoder", "openvino int8 on cpu", 0.0015, 0.00005, 1.7, 512),
            "reranker": ModelPace("cross-encoder", "openvino int8 on cpu", 0.003, 0.00012, 1.9, 512),
        },
        searches={
            features: SearchCost(
                wall_seconds=sum(one.wall_seconds for stage, one in of.items() if stage != "expander"),
                wall_cv=0.2,
                caller_cpu_seconds=0.001,
                candidates=4 if "rerank" in features else 0,
                stages=of,
            )
            for features, of in stages.items()
        },
    )
