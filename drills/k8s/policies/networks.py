"""Policies of networks, addresses and references."""

from __future__ import annotations

import re
from typing import Any

from drills.k8s.manifests import (
    Found,
    Rendering,
    config_maps_of,
    containers_of,
    labels_of,
    matches,
    pod_of,
    policies_of,
    ports_of,
    selects,
)
from drills.k8s.rendering import Manifest

# Made by operators: README.md says how.
_GIVEN = {
    ("Secret", "qdrant"),
    ("Secret", "rollout"),
    ("Secret", "backup"),
    ("ConfigMap", "qdrant-external"),
    ("ConfigMap", "llm"),
    ("Secret", "llm"),
    ("PersistentVolumeClaim", "ollama"),
    ("ConfigMap", "tracing-authority"),
    ("ConfigMap", "models-lock"),
    ("PersistentVolumeClaim", "models"),  # brought by the overlay production, not by the component
    ("PersistentVolumeClaim", "documents"),
}


def networks(rendering: Rendering) -> Found:
    """Close every pod in both directions except for named peers."""
    for manifest in rendering.workloads():
        own = policies_of(rendering, manifest)
        if missing := {"Ingress", "Egress"} - {kind for found in own for kind in found["spec"]["policyTypes"]}:
            yield manifest, f"is open for {' and '.join(sorted(missing))}"
        for found in own:
            if found["metadata"]["name"] == manifest["metadata"]["name"]:
                opened = {port["port"] for rule in found["spec"].get("ingress", ()) for port in rule["ports"]}
                for port in sorted(opened - ports_of(manifest)):
                    yield found, f"opens port {port}, which the pod does not have"


def ways_out(rendering: Rendering) -> Found:
    """Let a pod out only to ports that exist and let it in."""
    for manifest in rendering.workloads():
        for found in policies_of(rendering, manifest):
            for rule in found["spec"].get("egress", ()):
                for peer in rule.get("to", ()):
                    if "namespaceSelector" not in peer and "podSelector" in peer:
                        for port in rule["ports"]:
                            if not _answered(rendering, manifest, peer["podSelector"], port["port"]):
                                yield found, f"lets out to port {port['port']}, where nobody lets it in"


def _answered(rendering: Rendering, caller: Manifest, selector: dict[str, Any], port: int) -> bool:
    """True if a pod with that port lets the caller in."""
    return any(
        selects(selector, labels_of(other))
        and port in ports_of(other)
        and any(
            port in {given["port"] for given in rule["ports"]}
            and any(
                "namespaceSelector" not in peer and selects(peer["podSelector"], labels_of(caller))
                for peer in rule.get("from", ())
            )
            for found in policies_of(rendering, other)
            for rule in found["spec"].get("ingress", ())
        )
        for other in rendering.workloads()
    )


def addresses(rendering: Rendering) -> Found:
    """Make Services headless and stand for one workload; call only Services and ports that exist."""
    for service in rendering.of("Service"):
        if service["spec"].get("clusterIP") != "None":
            yield service, "is not headless: one client would stay with one pod"
        behind = [
            manifest for manifest in rendering.workloads() if matches(service["spec"]["selector"], labels_of(manifest))
        ]
        if len(behind) != 1:
            yield service, f"stands for {len(behind)} workloads"
            continue
        names = {port["name"] for container in containers_of(behind[0]) for port in container.get("ports", ())}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in names:
                yield service, f"port {port['name']} goes to {port['targetPort']}, which the pod does not have"
    for manifest in rendering.workloads():
        for container in containers_of(manifest):
            for name, value in rendering.environment(container).items():
                for one in value.split(","):
                    address = re.fullmatch(r"(?:dns:///|https?://)(?:([a-z-]+)-(\d+)\.)?([a-z-]+):(\d+)", one)
                    if address is None:
                        continue
                    called = rendering.named("Service", address[3])
                    if called is None or int(address[4]) not in {port["port"] for port in called["spec"]["ports"]}:
                        yield manifest, f"{name}={one}: there is no such Service and port"
                    elif address[1] and not _has_pod(rendering, address[1], int(address[2])):
                        yield manifest, f"{name}={one}: there is no such pod"


def schemes(rendering: Rendering) -> Found:
    """Call Qdrant by TLS where it has a certificate, and only there: retriever, nodes, probes, Prometheus."""
    qdrant = rendering.named("StatefulSet", "qdrant")
    if qdrant is None:
        return
    container = pod_of(qdrant)["containers"][0]
    variables = rendering.environment(container)
    scheme = "https" if variables.get("QDRANT__SERVICE__ENABLE_TLS") == "true" else "http"
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if container.get(name, {}).get("httpGet", {}).get("scheme", "HTTP") != scheme.upper():
            yield qdrant, f"{name} does not ask by {scheme}"
    if (variables.get("QDRANT__CLUSTER__P2P__ENABLE_TLS") == "true") != (scheme == "https"):
        yield qdrant, f"its nodes do not call each other by {scheme}"
    monitor = rendering.named("ServiceMonitor", "qdrant")
    if monitor is not None and monitor["spec"]["endpoints"][0].get("scheme", "http") != scheme:
        yield monitor, f"does not ask by {scheme}"
    for manifest in rendering.stages():
        for caller in containers_of(manifest):
            own = rendering.environment(caller)
            if any(not url.startswith(f"{scheme}://") for url in own.get("QDRANT_URL", scheme + "://").split(",")):
                yield manifest, f"does not call Qdrant by {scheme}"


def _has_pod(rendering: Rendering, name: str, number: int) -> bool:
    found = rendering.named("StatefulSet", name)
    return found is not None and number < found["spec"]["replicas"]


def references(rendering: Rendering) -> Found:
    """Name only ConfigMaps, Secrets, claims and accounts that exist or that operators bring."""
    made = {("Secret", manifest["spec"]["secretName"]) for manifest in rendering.of("Certificate")} | {
        (manifest["kind"], manifest["metadata"]["name"]) for manifest in rendering.manifests
    }
    for manifest in rendering.workloads():
        pod = pod_of(manifest)
        named = [("ServiceAccount", pod.get("serviceAccountName", "default"))]
        for volume in pod.get("volumes", ()):
            if volume.get("secret", volume.get("configMap", {})).get("optional"):
                continue
            if "secret" in volume:
                named.append(("Secret", volume["secret"]["secretName"]))
            if "persistentVolumeClaim" in volume:
                named.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            if "configMap" in volume:
                named.append(("ConfigMap", volume["configMap"]["name"]))
        for container in containers_of(manifest):
            named += [("ConfigMap", name) for name in config_maps_of(container)]
            named += [
                ("Secret", source["secretRef"]["name"])
                for source in container.get("envFrom", ())
                if "secretRef" in source
            ]
            named += [
                ("Secret", entry["valueFrom"]["secretKeyRef"]["name"])
                for entry in container.get("env", ())
                if "secretKeyRef" in entry.get("valueFrom", {})
                and not entry["valueFrom"]["secretKeyRef"].get("optional")
            ]
        for kind, name in named:
            if (kind, name) not in made | _GIVEN:
                yield manifest, f"names {kind} {name}, which is not there"


def one_namespace(rendering: Rendering) -> Found:
    """Keep all resources in one namespace, which admits only restricted pods."""
    namespaces = rendering.of("Namespace")
    for namespace in namespaces:
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield namespace, "admits pods that are not restricted"
    names = {namespace["metadata"]["name"] for namespace in namespaces}
    for manifest in rendering.manifests:
        if manifest["kind"] != "Namespace" and {manifest["metadata"].get("namespace")} != names:
            yield manifest, f"is in namespace {manifest['metadata'].get('namespace')}"


def secrets(rendering: Rendering) -> Found:
    """Contain no Secret."""
    for manifest in rendering.of("Secret"):
        yield manifest, "is in a file, for all to read"
