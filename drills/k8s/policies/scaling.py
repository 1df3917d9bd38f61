"""Policies of autoscalers and disruption budgets."""

from __future__ import annotations

import re

from drills.k8s.manifests import Found, Rendering, labels_of, pod_of, selects
from drills.k8s.rendering import Manifest

# Only one replica of them is active, so load is no reason for more.
_UNSCALED = {"rollout"}
_SIGNALS = {
    "embedder": {"sluice_queued_tokens"},
    "reranker": {"sluice_queued_tokens"},
    "retriever": {"qdrant_pool_waiting", "grpc_server_in_flight"},
    "gateway": {"grpc_server_in_flight"},
}


def scaling(rendering: Rendering) -> Found:
    """Scale every stage by one autoscaler: its own signal, the processor as fallback, slow to scale down."""
    scalers = rendering.of("HorizontalPodAutoscaler", "ScaledObject")
    for manifest in rendering.stages():
        name = manifest["metadata"]["name"]
        own = [scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"]["name"] == name]
        if name in _UNSCALED:
            if own or "replicas" not in manifest["spec"]:
                yield manifest, "has as many replicas as its load, where one is active"
            continue
        if len(own) != 1:
            yield manifest, f"has {len(own)} autoscalers"
            continue
        (scaler,) = own
        if "replicas" in manifest["spec"]:
            yield manifest, "says replicas, which is its autoscaler's to say"
        lowest, highest = limits_of(scaler)
        if not 1 <= lowest <= highest:
            yield scaler, f"scales between {lowest} and {highest}"
        series, cpu = signals(scaler)
        if missing := _SIGNALS.get(name, set()) - series:
            yield scaler, f"does not look at {', '.join(sorted(missing))}"
        if not cpu:
            yield scaler, "has no processor to fall back to"
        advanced = scaler["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
        down = (scaler["spec"].get("behavior") or advanced.get("behavior", {})).get("scaleDown", {})
        startup = pod_of(manifest)["containers"][0].get("startupProbe", {})
        load = startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3)
        if down.get("stabilizationWindowSeconds", 300) < load:
            yield scaler, f"takes pods away sooner than the {load} s that a new one may need to load"
    for scaler in scalers:
        if rendering.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"]) is None:
            yield scaler, "scales nothing"


def disruption(rendering: Rendering) -> Found:
    """Give every stage a disruption budget that lets a node be drained at the least number of replicas."""
    for manifest in rendering.stages():
        name = manifest["metadata"]["name"]
        budgets = [
            budget
            for budget in rendering.of("PodDisruptionBudget")
            if selects(budget["spec"]["selector"], labels_of(manifest))
        ]
        if len(budgets) != 1:
            yield manifest, f"has {len(budgets)} disruption budgets"
            continue
        spec = budgets[0]["spec"]
        scaler = next(
            (
                found
                for found in rendering.of("HorizontalPodAutoscaler", "ScaledObject")
                if found["spec"]["scaleTargetRef"]["name"] == name
            ),
            None,
        )
        lowest = limits_of(scaler)[0] if scaler else manifest["spec"].get("replicas", 1)
        kept = (
            count_of(spec["minAvailable"], lowest)
            if "minAvailable" in spec
            else (lowest - count_of(spec.get("maxUnavailable", 0), lowest))
        )
        if kept >= lowest:
            yield budgets[0], f"never lets one of {lowest} go: no node with it could be emptied"


def limits_of(scaler: Manifest) -> tuple[int, int]:
    spec = scaler["spec"]
    if scaler["kind"] == "ScaledObject":
        return spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    return spec.get("minReplicas", 1), spec["maxReplicas"]


def signals(scaler: Manifest) -> tuple[set[str], bool]:
    """Return the series that an autoscaler reads, and True if it reads the processor, too."""
    if scaler["kind"] == "ScaledObject":
        triggers = scaler["spec"]["triggers"]
        series = {
            match for trigger in triggers for match in re.findall(r"\w+(?=\{)", trigger["metadata"].get("query", ""))
        }
        return series, any(trigger["type"] == "cpu" for trigger in triggers)
    metrics = scaler["spec"]["metrics"]
    series = {metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"}
    return series, any(metric.get("resource", {}).get("name") == "cpu" for metric in metrics)


def count_of(value: int | str, of: int) -> int:
    """Return a number or a share of the replicas; Kubernetes rounds shares up."""
    return -(-int(value.removesuffix("%")) * of // 100) if isinstance(value, str) else value
