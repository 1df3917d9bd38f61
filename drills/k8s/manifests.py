"""Manifests of one rendering, and what policies ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drills.k8s.rendering import Manifest

NAME = "app.kubernetes.io/name"


@dataclass(frozen=True)
class Rendering:
    """All manifests of one overlay with components."""

    profile: str
    manifests: list[Manifest]

    def of(self, *kinds: str) -> list[Manifest]:
        """Return the manifests of some kinds."""
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest | None:
        """Return one manifest, or None."""
        return next((manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name), None)

    def workloads(self) -> list[Manifest]:
        """Return all manifests that start pods."""
        return self.of("Deployment", "StatefulSet", "Job", "CronJob")

    def stages(self) -> list[Manifest]:
        """Return the Deployments of the stages."""
        return self.of("Deployment")

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """Return the variables of a container; for a secret and for an address that operators give, a placeholder."""
        variables: dict[str, str] = {}
        for name in config_maps_of(container):
            found = self.named("ConfigMap", name)
            variables |= found["data"] if found else {}
        return variables | {entry["name"]: _value(entry) for entry in container.get("env", ())}


Found = Iterator[tuple[Manifest, str]]
"""Manifests that violate a policy, each with a message."""


def config_maps_of(container: dict[str, Any]) -> list[str]:
    """Return the names of the ConfigMaps that a container takes variables from, in order."""
    return [source["configMapRef"]["name"] for source in container.get("envFrom", ()) if "configMapRef" in source]


def _value(entry: dict[str, Any]) -> str:
    source = entry.get("valueFrom", {})
    return str(entry.get("value", "https://given.example" if "configMapKeyRef" in source else "the value of a secret"))


def pod_of(manifest: Manifest) -> dict[str, Any]:
    """Return the pod's spec of a workload."""
    spec: dict[str, Any] = _template(manifest)["spec"]
    return spec


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = _template(manifest)["metadata"]["labels"]
    return labels


def _template(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else manifest["spec"]
    template: Manifest = spec["template"]
    return template


def containers_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Return all containers of a workload, init containers first."""
    pod = pod_of(manifest)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def stage_of(manifest: Manifest) -> str:
    """Return the stage of a workload's pods."""
    return labels_of(manifest)[NAME]


def policies_of(rendering: Rendering, manifest: Manifest) -> list[Manifest]:
    labels = labels_of(manifest)
    return [found for found in rendering.of("NetworkPolicy") if selects(found["spec"]["podSelector"], labels)]


def ports_of(manifest: Manifest) -> set[int]:
    return {port["containerPort"] for container in containers_of(manifest) for port in container.get("ports", ())}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """True if a label selector matches these labels."""
    for expression in selector.get("matchExpressions", ()):
        value = labels.get(expression["key"])
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        if expression["operator"] == "NotIn" and value in expression["values"]:
            return False
    return matches(selector.get("matchLabels", {}), labels)


def matches(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()
