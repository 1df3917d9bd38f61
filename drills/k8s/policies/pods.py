"""Policies of pods: security, resources, probes, images, time to stop, spread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drills.k8s.manifests import Found, Rendering, containers_of, labels_of, pod_of, selects
from services.chassis.settings import StageSettings

_MARGIN_SECONDS = 5
_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "csi"}


def restricted(rendering: Rendering) -> Found:
    """Follow the Pod Security Standard `restricted`, with a read-only root file system."""
    for manifest in rendering.workloads():
        shared = pod_of(manifest).get("securityContext", {})
        for container in containers_of(manifest):
            for words in _loose({**shared, **container.get("securityContext", {})}):
                yield manifest, f"{container['name']} {words}"
            if any("hostPort" in port for port in container.get("ports", ())):
                yield manifest, f"{container['name']} takes a port of its node"


def _loose(context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "may be root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may become more than it is"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "keeps capabilities"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"


def apart(rendering: Rendering) -> Found:
    """Share nothing with the node or the cluster, and mount no token."""
    for manifest in rendering.workloads():
        pod = pod_of(manifest)
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                yield manifest, f"{field} is on"
        for volume in pod.get("volumes", ()):
            if foreign := set(volume) - {"name"} - _VOLUMES:
                yield manifest, f"volume {volume['name']} is {', '.join(foreign)}"
        if pod.get("automountServiceAccountToken") is not False:
            yield manifest, "pods get a token of the cluster that they have no use for"
        if pod.get("enableServiceLinks") is not False:
            yield manifest, "Services would show up as variables that look like settings"


def limits(rendering: Rendering) -> Found:
    """Request and limit processor and memory."""
    for manifest in rendering.workloads():
        for container in containers_of(manifest):
            for part in ("requests", "limits"):
                given = container.get("resources", {}).get(part, {})
                if missing := {"cpu", "memory"} - set(given):
                    yield manifest, f"{container['name']} has no {part} of {' and '.join(sorted(missing))}"


def probes(rendering: Rendering) -> Found:
    """Probe startup, readiness and liveness; stages over gRPC, on a port that they have."""
    for manifest in rendering.of("Deployment", "StatefulSet"):
        for container in pod_of(manifest)["containers"]:
            ports = {port["containerPort"] for port in container.get("ports", ())}
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(name)
                if probe is None:
                    yield manifest, f"{container['name']} has no {name}"
                elif manifest["kind"] == "Deployment" and "grpc" not in probe:
                    yield manifest, f"{container['name']}: {name} is not gRPC"
                elif "grpc" in probe and probe["grpc"]["port"] not in ports:
                    yield manifest, f"{container['name']}: {name} asks port {probe['grpc']['port']}, which it has not"
            variables = rendering.environment(container)
            port = container.get("readinessProbe", {}).get("grpc", {}).get("port")
            if variables.get("GRPC_TLS_CERTIFICATE") and variables.get("HEALTH_PORT") != str(port):
                yield manifest, f"{container['name']}: Kubernetes has no certificate to ask a port with TLS"


def images(rendering: Rendering) -> Found:
    """Tag every image, and not with `latest`."""
    for manifest in rendering.workloads():
        for container in containers_of(manifest):
            tag = container["image"].rpartition("/")[2].partition(":")[2].partition("@")[0]
            if tag in ("", "latest"):
                yield manifest, f"{container['image']} is whatever it will be on that day"


def grace(rendering: Rendering) -> Found:
    """Leave a pod the time to stop that its settings allow, with a margin."""
    for manifest in rendering.stages():
        pod = pod_of(manifest)
        container = pod["containers"][0]
        variables = rendering.environment(container)
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        fields = StageSettings.model_fields
        drain, ending = (
            float(variables.get(name.upper(), fields[name].default))
            for name in ("drain_seconds", "shutdown_grace_seconds")
        )
        needed = sleep + drain + ending + _MARGIN_SECONDS
        if pod.get("terminationGracePeriodSeconds", 30) < needed:
            yield manifest, f"is killed before the {needed:g} s are over that stopping may take"


def spread(rendering: Rendering) -> Found:
    """Spread the replicas of a stage over zones and nodes."""
    for manifest in rendering.stages():
        keys = {
            constraint["topologyKey"]
            for constraint in pod_of(manifest).get("topologySpreadConstraints", ())
            if selects(constraint["labelSelector"], labels_of(manifest))
        }
        if missing := {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} - keys:
            yield manifest, f"is not spread by {' and '.join(sorted(missing))}"
