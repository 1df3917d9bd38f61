"""The policy of plain ports: where there is TLS, what speaks without it is in a list here, with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from drills.k8s.manifests import Found, Rendering, containers_of, pod_of, selects, stage_of

PLAIN_PORTS = {
    "health": "Kubernetes' probes have no certificate, and it answers for health alone",
}
"""Ports of pods, by name, that speak plain also with the component `mtls`."""
PLAIN_ADDRESSES = {
    "http://127.0.0.1:11434": "Ollama is in the same pod",
    "http://prometheus-operated.monitoring:9090": "KEDA asks it, outside of this namespace; its numbers are no secret",
}
"""Addresses that are called in clear also with the component `mtls`."""
PLAIN_WITHOUT_MTLS = {"stage": {"grpc", "metrics"}, "qdrant": {"http", "grpc", "nodes"}}
"""Ports of stages and of Qdrant that may speak plain where the namespace goes without `mtls`."""

_TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT"


def plain_ports(rendering: Rendering) -> Found:
    """Speak TLS on every port and to every address but those that are listed."""
    secured = any(_variables(rendering, stage).get("GRPC_TLS_CERTIFICATE") for stage in rendering.stages())
    for manifest in rendering.workloads():
        pod = "stage" if manifest["kind"] == "Deployment" else stage_of(manifest)
        for container in containers_of(manifest):
            variables = rendering.environment(container)
            for port in container.get("ports", ()):
                name = port["name"]
                known = name in PLAIN_PORTS or (not secured and name in PLAIN_WITHOUT_MTLS.get(pod, ()))
                if not (known or _speaks_tls(name, pod, variables)):
                    yield manifest, f"port {port['containerPort']} ({name}) speaks plain"
            for words in _plain_calls(variables, secured=secured):
                yield manifest, words
    if secured:
        yield from _plain_monitors(rendering)


def _plain_monitors(rendering: Rendering) -> Found:
    """Yield what asks for numbers in clear."""
    for manifest in rendering.of("ScaledObject"):
        for trigger in manifest["spec"]["triggers"]:
            address = trigger.get("metadata", {}).get("serverAddress", "")
            if address.startswith("http://") and address not in PLAIN_ADDRESSES:
                yield manifest, f"{address} is asked in clear"
    services = [service["metadata"].get("labels", {}) for service in rendering.of("Service")]
    for manifest in rendering.of("ServiceMonitor"):
        if not any(selects(manifest["spec"]["selector"], labels) for labels in services):
            continue  # Qdrant's, where that is somebody else's
        for endpoint in manifest["spec"]["endpoints"]:
            if endpoint.get("scheme", "http") != "https":
                yield manifest, f"asks port {endpoint['port']} in clear"
            elif "ca" not in endpoint.get("tlsConfig", {}):
                yield manifest, f"asks port {endpoint['port']} without an authority"


def _variables(rendering: Rendering, manifest: dict[str, Any]) -> dict[str, str]:
    return rendering.environment(pod_of(manifest)["containers"][0])


def _speaks_tls(port: str, pod: str, variables: dict[str, str]) -> bool:
    if pod == "qdrant":
        switch = "QDRANT__CLUSTER__P2P__ENABLE_TLS" if port == "nodes" else "QDRANT__SERVICE__ENABLE_TLS"
        return variables.get(switch) == "true"
    if port == "metrics":
        return variables.get("METRICS_TLS") == "true"
    return port == "grpc" and bool(variables.get("GRPC_TLS_CERTIFICATE"))


def _plain_calls(variables: dict[str, str], *, secured: bool) -> Iterator[str]:
    """Yield what a container calls in clear: with `mtls` anything, and databases and collectors always."""
    url = variables.get("ROLLOUT_DATABASE_URL", "")
    if url and not url.startswith("sqlite:") and not variables.get("ROLLOUT_DATABASE_CA_FILE"):
        yield "ROLLOUT_DATABASE_URL: PostgreSQL is called without an authority for its certificate"
    for name, value in variables.items() if secured else [(_TRACES, variables.get(_TRACES, ""))]:
        for address in re.split(r",\s*", value):
            if address.startswith("http://") and address not in PLAIN_ADDRESSES:
                yield f"{name}: {address} is called in clear"
    if secured and variables.get("SLUICE_GATEWAY") and not variables.get("SLUICE_TLS_CERTIFICATE"):
        yield "SLUICE_GATEWAY is called in clear"
