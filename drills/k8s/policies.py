"""What manifests of ours have to be, beyond being valid: each policy yields what breaks it.

A policy is a function of all manifests of one rendering. Pods of stages are told by their label, which is the stage's
name, and stages by tests/registry.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from deploy.local.profiles import load_profile
from drills.k8s.rendering import Manifest
from services.chassis.settings import StageSettings
from tests.registry import STAGES

NAME = "app.kubernetes.io/name"
MODEL_STAGES = {stage.name: stage.spec.model_setting.removesuffix("_MODEL") for stage in STAGES if stage.spec.model}
# Made by operators: README.md says how.
GIVEN = {
    ("Secret", "qdrant"),
    ("Secret", "rollout"),
    ("PersistentVolumeClaim", "models"),  # brought by the overlay production, not by the component
    ("PersistentVolumeClaim", "documents"),
}
# One replica of them is active, however many there are: load is no reason for more.
UNSCALED = {"rollout"}
# What the component gpu says against a profile, and nothing else may.
OVER_PROFILE = {"EMBEDDING_DEVICE", "RERANK_DEVICE"}
_MARGIN_SECONDS = 5
_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "csi"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it has to be."""

    policy: str
    resource: str
    words: str


@dataclass(frozen=True)
class Rendering:
    """All manifests of one overlay with components."""

    profile: str
    manifests: list[Manifest]

    def of(self, *kinds: str) -> list[Manifest]:
        """Those of some kinds."""
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest | None:
        """One of them, if it is there."""
        return next((manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name), None)

    def workloads(self) -> list[Manifest]:
        """All that start pods."""
        return self.of("Deployment", "StatefulSet", "Job")

    def stages(self) -> list[Manifest]:
        """The Deployments of the stages."""
        return self.of("Deployment")

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """The variables of a container, as it will see them; of a secret, that it is one."""
        variables: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            found = self.named("ConfigMap", source["configMapRef"]["name"])
            variables |= found["data"] if found else {}
        return variables | {entry["name"]: entry.get("value", "from a secret") for entry in container.get("env", ())}


Found = Iterator[tuple[Manifest, str]]
Policy = Callable[[Rendering], Found]
POLICIES: dict[str, Policy] = {}


def policy(check: Policy) -> Policy:
    """Adds a policy under its function's name."""
    POLICIES[check.__name__.replace("_", " ")] = check
    return check


def problems(rendering: Rendering) -> list[Problem]:
    """All that breaks any policy."""
    return [
        Problem(name, f"{manifest['kind']} {manifest['metadata']['name']}", words)
        for name, check in POLICIES.items()
        for manifest, words in check(rendering)
    ]


def pod_of(manifest: Manifest) -> dict[str, Any]:
    """The pod's spec in what starts it."""
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return spec


def labels_of(manifest: Manifest) -> dict[str, str]:
    """The labels of the pods that it starts."""
    labels: dict[str, str] = manifest["spec"]["template"]["metadata"]["labels"]
    return labels


def containers_of(manifest: Manifest) -> list[dict[str, Any]]:
    """All containers, those that run first included."""
    pod = pod_of(manifest)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def stage_of(manifest: Manifest) -> str:
    """The stage whose pods it starts."""
    return labels_of(manifest)[NAME]


@policy
def restricted(rendering: Rendering) -> Found:
    """The Pod Security Standard `restricted`, and a root file system that is read-only besides."""
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


@policy
def apart(rendering: Rendering) -> Found:
    """Pods share nothing with their node or the cluster: the other half of `restricted`, and no token."""
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


@policy
def limits(rendering: Rendering) -> Found:
    """What a container asks for and what it may have, of processor and memory."""
    for manifest in rendering.workloads():
        for container in containers_of(manifest):
            for part in ("requests", "limits"):
                given = container.get("resources", {}).get(part, {})
                if missing := {"cpu", "memory"} - set(given):
                    yield manifest, f"{container['name']} has no {part} of {' and '.join(sorted(missing))}"


@policy
def probes(rendering: Rendering) -> Found:
    """Startup, readiness and liveness of all that serves; of stages over gRPC, and on a port that they have."""
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


@policy
def images(rendering: Rendering) -> Found:
    """Every image has a tag, and not `latest`."""
    for manifest in rendering.workloads():
        for container in containers_of(manifest):
            tag = container["image"].rpartition("/")[2].partition(":")[2].partition("@")[0]
            if tag in ("", "latest"):
                yield manifest, f"{container['image']} is whatever it will be on that day"


@policy
def models(rendering: Rendering) -> Found:
    """A model stage's image holds the profile's model, or one is mounted; whether it is on a GPU, all say the same."""
    for manifest in rendering.stages():
        prefix = MODEL_STAGES.get(stage_of(manifest))
        if prefix is None:
            continue
        container = pod_of(manifest)["containers"][0]
        variables = rendering.environment(container)
        model = variables.get(f"{prefix}_MODEL", "").rpartition("/")[2]
        release, _, carried = container["image"].rpartition(":")[2].partition("-")
        mounted = any(mount["mountPath"] == "/models" for mount in container.get("volumeMounts", ()))
        if not mounted and carried.removesuffix("-cuda") != model:
            yield manifest, f"the profile's model is {model}, the image {release} holds {carried or 'none'}"
        signs = {
            f"{prefix}_DEVICE": variables.get(f"{prefix}_DEVICE") == "cuda",
            "nvidia.com/gpu": "nvidia.com/gpu" in container["resources"]["limits"],
            "image": carried.endswith("cuda"),
        }
        if len(set(signs.values())) > 1:
            yield manifest, f"is it on a GPU? {signs}"


@policy
def profile(rendering: Rendering) -> Found:
    """Every stage gets the base and the profile of its overlay, and no other source says something else."""
    wanted = load_profile(rendering.profile)
    carried = {
        manifest["metadata"]["labels"]["sluice/profile"]: manifest
        for manifest in rendering.of("ConfigMap")
        if "sluice/profile" in manifest["metadata"]["labels"]
    }
    if set(carried) != {"base", rendering.profile}:
        yield rendering.of("Namespace")[0], f"holds the profiles {', '.join(sorted(carried))}"
        return
    base, own = carried["base"], carried[rendering.profile]
    if different := sorted(name for name, _ in (base["data"] | own["data"]).items() ^ wanted.items()):
        yield own, f"differs from deploy/profiles in {', '.join(different)}"
    names = [base["metadata"]["name"], own["metadata"]["name"]]
    for manifest in rendering.stages():
        container = pod_of(manifest)["containers"][0]
        sources = [source["configMapRef"]["name"] for source in container.get("envFrom", ())]
        if sources[:2] != names:
            yield manifest, "does not get its variables from the base and the profile first"
        said = {entry["name"] for entry in container.get("env", ())}
        for source in sources[2:]:
            found = rendering.named("ConfigMap", source)
            said |= set(found["data"]) if found else set()
        if against := sorted(said & set(wanted) - OVER_PROFILE):
            yield manifest, f"says {', '.join(against)}, which is the profile's to say"


@policy
def settings(rendering: Rendering) -> Found:
    """Every variable of a stage is one that it knows, and the stage would start with all of them."""
    known = {stage.name: stage for stage in STAGES}
    everybodys = {field.upper() for stage in STAGES for field in type(stage.load_settings()).model_fields}
    for manifest in rendering.stages():
        container = pod_of(manifest)["containers"][0]
        stage = known.get(stage_of(manifest))
        if stage is None:
            yield manifest, "is no stage of tests/registry.py"
            continue
        fields = {field.upper() for field in type(stage.load_settings()).model_fields}
        for entry in container.get("env", ()):
            if entry["name"] not in fields:
                yield manifest, f"{entry['name']} is no setting of the {stage.name}"
        variables = rendering.environment(container)
        if unknown := sorted(set(variables) - everybodys):
            yield manifest, f"{', '.join(unknown)}: no stage has such a setting"
        try:
            type(stage.load_settings()).model_validate(
                {name.lower(): value for name, value in variables.items() if name in fields}
            )
        except ValidationError as error:
            yield manifest, f"would not start: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"


@policy
def grace(rendering: Rendering) -> Found:
    """A pod has the time that its settings let it take to stop, and some more."""
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


def _limits_of(scaler: Manifest) -> tuple[int, int]:
    spec = scaler["spec"]
    if scaler["kind"] == "ScaledObject":
        return spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100)
    return spec.get("minReplicas", 1), spec["maxReplicas"]


def _signals(scaler: Manifest) -> tuple[set[str], bool]:
    """The series that it scales by, and whether the processor is one more."""
    if scaler["kind"] == "ScaledObject":
        triggers = scaler["spec"]["triggers"]
        series = {
            match for trigger in triggers for match in re.findall(r"\w+(?=\{)", trigger["metadata"].get("query", ""))
        }
        return series, any(trigger["type"] == "cpu" for trigger in triggers)
    metrics = scaler["spec"]["metrics"]
    series = {metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"}
    return series, any(metric.get("resource", {}).get("name") == "cpu" for metric in metrics)


_SIGNALS = {
    "embedder": {"sluice_queued_tokens"},
    "reranker": {"sluice_queued_tokens"},
    "retriever": {"qdrant_pool_waiting", "grpc_server_in_flight"},
    "gateway": {"grpc_server_in_flight"},
}


@policy
def scaling(rendering: Rendering) -> Found:
    """Every stage has one autoscaler, by its own signal with the processor as fallback, that is slow to take away."""
    scalers = rendering.of("HorizontalPodAutoscaler", "ScaledObject")
    for manifest in rendering.stages():
        name = manifest["metadata"]["name"]
        own = [scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"]["name"] == name]
        if name in UNSCALED:
            if own or "replicas" not in manifest["spec"]:
                yield manifest, "has as many replicas as its load, where one is active"
            continue
        if len(own) != 1:
            yield manifest, f"has {len(own)} autoscalers"
            continue
        (scaler,) = own
        if "replicas" in manifest["spec"]:
            yield manifest, "says replicas, which is its autoscaler's to say"
        lowest, highest = _limits_of(scaler)
        if not 1 <= lowest <= highest:
            yield scaler, f"scales between {lowest} and {highest}"
        series, cpu = _signals(scaler)
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


@policy
def disruption(rendering: Rendering) -> Found:
    """Every stage has a budget, which lets a node be emptied even when the stage is at its least."""
    for manifest in rendering.stages():
        name = manifest["metadata"]["name"]
        budgets = [
            budget
            for budget in rendering.of("PodDisruptionBudget")
            if _selects(budget["spec"]["selector"], labels_of(manifest))
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
        lowest = _limits_of(scaler)[0] if scaler else manifest["spec"].get("replicas", 1)
        kept = (
            _count(spec["minAvailable"], lowest)
            if "minAvailable" in spec
            else (lowest - _count(spec.get("maxUnavailable", 0), lowest))
        )
        if kept >= lowest:
            yield budgets[0], f"never lets one of {lowest} go: no node with it could be emptied"


def _count(value: int | str, of: int) -> int:
    """A number, or a share of the replicas; Kubernetes rounds shares up."""
    return -(-int(value.removesuffix("%")) * of // 100) if isinstance(value, str) else value


@policy
def spread(rendering: Rendering) -> Found:
    """Replicas of a stage are spread over zones and nodes."""
    for manifest in rendering.stages():
        keys = {
            constraint["topologyKey"]
            for constraint in pod_of(manifest).get("topologySpreadConstraints", ())
            if _selects(constraint["labelSelector"], labels_of(manifest))
        }
        if missing := {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} - keys:
            yield manifest, f"is not spread by {' and '.join(sorted(missing))}"


@policy
def networks(rendering: Rendering) -> Found:
    """Every pod is closed in both directions but for what is named."""
    for manifest in rendering.workloads():
        own = _policies_of(rendering, manifest)
        if missing := {"Ingress", "Egress"} - {kind for found in own for kind in found["spec"]["policyTypes"]}:
            yield manifest, f"is open for {' and '.join(sorted(missing))}"
        for found in own:
            if found["metadata"]["name"] == manifest["metadata"]["name"]:
                opened = {port["port"] for rule in found["spec"].get("ingress", ()) for port in rule["ports"]}
                for port in sorted(opened - _ports_of(manifest)):
                    yield found, f"opens port {port}, which the pod does not have"


@policy
def ways_out(rendering: Rendering) -> Found:
    """Where a pod is let out to pods of ours, these have that port, and let it in."""
    for manifest in rendering.workloads():
        for found in _policies_of(rendering, manifest):
            for rule in found["spec"].get("egress", ()):
                for peer in rule.get("to", ()):
                    if "namespaceSelector" not in peer and "podSelector" in peer:
                        for port in rule["ports"]:
                            if not _answered(rendering, manifest, peer["podSelector"], port["port"]):
                                yield found, f"lets out to port {port['port']}, where nobody lets it in"


def _answered(rendering: Rendering, caller: Manifest, selector: dict[str, Any], port: int) -> bool:
    """Whether there is a pod with that port whose policies let the caller in."""
    return any(
        _selects(selector, labels_of(other))
        and port in _ports_of(other)
        and any(
            port in {given["port"] for given in rule["ports"]}
            and any(
                "namespaceSelector" not in peer and _selects(peer["podSelector"], labels_of(caller))
                for peer in rule.get("from", ())
            )
            for found in _policies_of(rendering, other)
            for rule in found["spec"].get("ingress", ())
        )
        for other in rendering.workloads()
    )


def _policies_of(rendering: Rendering, manifest: Manifest) -> list[Manifest]:
    labels = labels_of(manifest)
    return [found for found in rendering.of("NetworkPolicy") if _selects(found["spec"]["podSelector"], labels)]


def _ports_of(manifest: Manifest) -> set[int]:
    return {port["containerPort"] for container in containers_of(manifest) for port in container.get("ports", ())}


@policy
def addresses(rendering: Rendering) -> Found:
    """Services are headless and stand for pods; what a stage calls is a Service with that port."""
    for service in rendering.of("Service"):
        if service["spec"].get("clusterIP") != "None":
            yield service, "is not headless: one client would stay with one pod"
        behind = [
            manifest for manifest in rendering.workloads() if _matches(service["spec"]["selector"], labels_of(manifest))
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
            for entry in container.get("env", ()):
                address = re.fullmatch(r"(?:dns:///|https?://)([a-z-]+):(\d+)", entry.get("value", ""))
                if address is None:
                    continue
                called = rendering.named("Service", address[1])
                if called is None or int(address[2]) not in {port["port"] for port in called["spec"]["ports"]}:
                    yield manifest, f"{entry['name']}={entry['value']}: there is no such Service and port"


@policy
def references(rendering: Rendering) -> Found:
    """ConfigMaps, Secrets, claims and accounts that pods name are there, or are among those that people bring."""
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
            named += [("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", ())]
            named += [
                ("Secret", entry["valueFrom"]["secretKeyRef"]["name"])
                for entry in container.get("env", ())
                if "secretKeyRef" in entry.get("valueFrom", {})
            ]
        for kind, name in named:
            if (kind, name) not in made | GIVEN:
                yield manifest, f"names {kind} {name}, which is not there"


@policy
def one_namespace(rendering: Rendering) -> Found:
    """All is in one namespace, which admits only restricted pods."""
    namespaces = rendering.of("Namespace")
    for namespace in namespaces:
        if namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield namespace, "admits pods that are not restricted"
    names = {namespace["metadata"]["name"] for namespace in namespaces}
    for manifest in rendering.manifests:
        if manifest["kind"] != "Namespace" and {manifest["metadata"].get("namespace")} != names:
            yield manifest, f"is in namespace {manifest['metadata'].get('namespace')}"


@policy
def secrets(rendering: Rendering) -> Found:
    """No secret is written down."""
    for manifest in rendering.of("Secret"):
        yield manifest, "is in a file, for all to read"


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector takes these labels."""
    for expression in selector.get("matchExpressions", ()):
        value = labels.get(expression["key"])
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        if expression["operator"] == "NotIn" and value in expression["values"]:
            return False
    return _matches(selector.get("matchLabels", {}), labels)


def _matches(wanted: dict[str, str], labels: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()
