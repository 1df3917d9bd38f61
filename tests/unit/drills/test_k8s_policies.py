"""Every policy of `make k8s-check` refuses a manifest that was broken on purpose, and lets the base through."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.local.paths import BUILD, PROFILES
from deploy.local.profiles import load_profile, profile_names
from drills.k8s import policies, rendering
from drills.k8s.manifests import NAME, Rendering, containers_of
from drills.k8s.policies import POLICIES
from drills.k8s.rendering import ALONE, COMPONENTS, K8S, Combination
from services import __version__
from tests.registry import STAGES

PROFILE = "development"


def documents(folder):
    for file in sorted(folder.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from yaml.safe_load_all(file.read_text())


def config_map(name, profile, data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"sluice/profile": profile}},
        "data": data,
    }


def addresses():
    generated, _ = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["configMapGenerator"]
    data = dict(literal.split("=", 1) for literal in generated["literals"])
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": generated["name"], "labels": {}},
        "data": data,
    }


def assembled():
    """The base as an overlay would complete it, without kustomize."""
    manifests = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "here", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
        config_map("profile-base", "base", load_profile(PROFILE)),
        config_map("profile", PROFILE, {}),
        addresses(),
    ]
    for folder in sorted((K8S / "base").iterdir()):
        if folder.is_dir():
            manifests += documents(folder)
    for manifest in manifests:
        if manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = "here"
    return manifests


WHOLE = assembled()


@pytest.fixture
def whole():
    return Rendering(PROFILE, copy.deepcopy(WHOLE))


def pod(found, name="gateway", kind="Deployment"):
    return found.named(kind, name)["spec"]["template"]["spec"]


def container(found, name="gateway", kind="Deployment"):
    return pod(found, name, kind)["containers"][0]


def variable(found, name, value, stage="gateway"):
    container(found, stage).setdefault("env", []).append({"name": name, "value": value})


def test_the_base_completed_breaks_no_policy(whole):
    assert policies.problems(whole) == []


def test_every_stage_is_in_the_base(whole):
    assert {stage.name for stage in STAGES} == {manifest["metadata"]["name"] for manifest in whole.stages()}


BREAKS = {
    "a pod that may be root": ("restricted", lambda w: pod(w)["securityContext"].pop("runAsNonRoot")),
    "root by number": ("restricted", lambda w: pod(w)["securityContext"].update(runAsUser=0)),
    "no seccomp profile": ("restricted", lambda w: pod(w)["securityContext"].pop("seccompProfile")),
    "privilege escalation": ("restricted", lambda w: container(w)["securityContext"].pop("allowPrivilegeEscalation")),
    "capabilities kept": ("restricted", lambda w: container(w)["securityContext"].pop("capabilities")),
    "a capability added": (
        "restricted",
        lambda w: container(w)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
    ),
    "a root that can be written": (
        "restricted",
        lambda w: container(w)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    "a port of the node": ("restricted", lambda w: container(w)["ports"][0].update(hostPort=50051)),
    "root in the job": ("restricted", lambda w: pod(w, "index", "Job")["securityContext"].update(runAsUser=0)),
    "the node's network": ("apart", lambda w: pod(w).update(hostNetwork=True)),
    "a folder of the node": ("apart", lambda w: pod(w)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    "a token": ("apart", lambda w: pod(w).pop("automountServiceAccountToken")),
    "service links": ("apart", lambda w: pod(w).update(enableServiceLinks=True)),
    "no limit of memory": ("limits", lambda w: container(w)["resources"]["limits"].pop("memory")),
    "no requests": ("limits", lambda w: container(w, "qdrant", "StatefulSet")["resources"].pop("requests")),
    "no startup probe": ("probes", lambda w: container(w, "embedder").pop("startupProbe")),
    "a probe that is not gRPC": (
        "probes",
        lambda w: container(w).update(readinessProbe={"tcpSocket": {"port": "grpc"}}),
    ),
    "a probe of another port": ("probes", lambda w: container(w)["livenessProbe"]["grpc"].update(port=1)),
    "TLS on the probed port": ("probes", lambda w: variable(w, "GRPC_TLS_CERTIFICATE", "/tls/tls.crt")),
    "latest": ("images", lambda w: container(w).update(image="sluice/gateway:latest")),
    "no tag": ("images", lambda w: container(w).update(image="registry:5000/sluice/gateway")),
    "another model in the image": ("models", lambda w: container(w, "embedder").update(image="sluice/embedder:1.0-e5")),
    "no model at all": ("models", lambda w: container(w, "reranker").update(image="sluice/reranker:1.0")),
    "a GPU that nothing uses": (
        "models",
        lambda w: container(w, "embedder")["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
    ),
    "a profile that was edited": ("profile", lambda w: w.named("ConfigMap", "profile")["data"].update(LEXICAL_B="0.1")),
    "a profile that lacks a line": ("profile", lambda w: w.named("ConfigMap", "profile-base")["data"].pop("LEXICAL_B")),
    "a stage without the profile": ("profile", lambda w: container(w).pop("envFrom")),
    "a word against the profile": ("profile", lambda w: variable(w, "RERANK_ENABLED", "1")),
    "a variable that no stage knows": ("settings", lambda w: variable(w, "RERANKER_ADRESS", "x")),
    "a variable of another stage": ("settings", lambda w: variable(w, "QDRANT_URL", "http://qdrant:6333")),
    "a value that the stage refuses": ("settings", lambda w: variable(w, "METRICS_PORT", "many")),
    "too short a grace": ("grace", lambda w: pod(w).update(terminationGracePeriodSeconds=15)),
    "an autoscaler's business where one is active": (
        "scaling",
        lambda w: w.named("Deployment", "rollout")["spec"].pop("replicas"),
    ),
    "no autoscaler": ("scaling", lambda w: w.manifests.remove(w.named("HorizontalPodAutoscaler", "gateway"))),
    "replicas beside an autoscaler": ("scaling", lambda w: w.named("Deployment", "gateway")["spec"].update(replicas=3)),
    "no signal of its own": (
        "scaling",
        lambda w: w.named("HorizontalPodAutoscaler", "embedder")["spec"]["metrics"].pop(0),
    ),
    "no fallback": ("scaling", lambda w: w.named("HorizontalPodAutoscaler", "embedder")["spec"]["metrics"].pop()),
    "a limit below the least": (
        "scaling",
        lambda w: w.named("HorizontalPodAutoscaler", "gateway")["spec"].update(maxReplicas=1),
    ),
    "pods taken away while others load": (
        "scaling",
        lambda w: w.named("HorizontalPodAutoscaler", "embedder")["spec"]["behavior"]["scaleDown"].update(
            stabilizationWindowSeconds=60
        ),
    ),
    "no budget": ("disruption", lambda w: w.manifests.remove(w.named("PodDisruptionBudget", "gateway"))),
    "a budget that keeps all": (
        "disruption",
        lambda w: w.named("PodDisruptionBudget", "gateway")["spec"].update(maxUnavailable=0),
    ),
    "a budget that keeps as many as there are at least": (
        "disruption",
        lambda w: _keep(w.named("PodDisruptionBudget", "gateway")["spec"], 2),
    ),
    "a budget that keeps a share that is all": (
        "disruption",
        lambda w: _keep(w.named("PodDisruptionBudget", "gateway")["spec"], "60%"),
    ),
    "no spread": ("spread", lambda w: pod(w)["topologySpreadConstraints"].pop()),
    "a spread of others": (
        "spread",
        lambda w: pod(w)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update({NAME: "embedder"}),
    ),
    "no network policy": ("networks", lambda w: w.manifests.remove(w.named("NetworkPolicy", "qdrant"))),
    "open on the way out": (
        "networks",
        lambda w: w.named("NetworkPolicy", "embedder")["spec"].update(policyTypes=["Ingress"]),
    ),
    "a port opened that is not there": (
        "networks",
        lambda w: w.named("NetworkPolicy", "embedder")["spec"]["ingress"][0]["ports"][0].update(port=1),
    ),
    "a way out that ends at a closed door": (
        "ways out",
        lambda w: w.named("NetworkPolicy", "embedder")["spec"].update(ingress=[]),
    ),
    "a service that is not headless": ("addresses", lambda w: w.named("Service", "gateway")["spec"].pop("clusterIP")),
    "a service of nobody": (
        "addresses",
        lambda w: w.named("Service", "gateway")["spec"].update(selector={NAME: "gate"}),
    ),
    "a service to a port that is not there": (
        "addresses",
        lambda w: w.named("Service", "gateway")["spec"]["ports"][0].update(targetPort="http"),
    ),
    "an address that nobody has": (
        "addresses",
        lambda w: variable(w, "RERANKER_ADDRESS", "dns:///reranker:50054"),
    ),
    "TLS that Qdrant does not speak": (
        "schemes",
        lambda w: container(w, "retriever")["env"][0].update(value="https://qdrant:6333"),
    ),
    "a probe without TLS": (
        "schemes",
        lambda w: container(w, "qdrant", "StatefulSet")["env"].append(
            {"name": "QDRANT__SERVICE__ENABLE_TLS", "value": "true"}
        ),
    ),
    "a port in clear that is on no list": (
        "plain ports",
        lambda w: container(w)["ports"].append({"name": "debug", "containerPort": 9999}),
    ),
    "a collector that is called in clear": (
        "plain ports",
        lambda w: variable(w, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel-collector.observability:4317"),
    ),
    "a database whose certificate nobody checks": (
        "plain ports",
        lambda w: container(w, "rollout")["env"][0].update(value="postgresql://sluice@database/rollout"),
    ),
    "Qdrant in clear beside stages with TLS": (
        "plain ports",
        lambda w: variable(w, "GRPC_TLS_CERTIFICATE", "/tls/tls.crt"),
    ),
    "a secret that nobody brings": (
        "references",
        lambda w: pod(w)["volumes"].append({"name": "x", "secret": {"secretName": "x"}}),
    ),
    "an account that is not there": ("references", lambda w: pod(w).update(serviceAccountName="root")),
    "two namespaces": ("one namespace", lambda w: w.named("Service", "gateway")["metadata"].update(namespace="there")),
    "a namespace that admits anything": (
        "one namespace",
        lambda w: w.named("Namespace", "here")["metadata"].update(labels={}),
    ),
    "a secret in a file": (
        "secrets",
        lambda w: w.manifests.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "qdrant", "namespace": "here"}}
        ),
    ),
}


def _keep(spec, count):
    spec.pop("maxUnavailable")
    spec["minAvailable"] = count


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_on_purpose_is_refused(name, whole):
    expected, break_it = BREAKS[name]
    break_it(whole)
    assert expected in {problem.policy for problem in policies.problems(whole)}


def test_every_policy_has_something_to_refuse():
    assert {expected for expected, _break in BREAKS.values()} == set(POLICIES)


def test_the_profiles_kustomization_carries_the_base_and_the_profile_of_every_overlay():
    kustomization = yaml.safe_load((PROFILES / "kustomization.yaml").read_text())
    carried = {entry["name"]: entry for entry in kustomization["configMapGenerator"]}
    assert set(carried) == {f"profile-{name}" for name in ("base", *rendering.overlays())}
    for name in ("base", *rendering.overlays()):
        entry = carried[f"profile-{name}"]
        assert entry["envs"] == [f"{name}.env"]
        assert entry["options"]["labels"]["sluice/profile"] == name


def test_overlays_are_the_environments_and_have_profiles():
    assert rendering.overlays() == ["development", "production", "staging"]
    assert set(rendering.overlays()) <= set(profile_names())


def test_every_component_is_checked():
    assert set(COMPONENTS + ALONE) == {folder.name for folder in (K8S / "components").iterdir()}


def test_images_carry_the_release():
    for file in K8S.glob("*/*/*.yaml"):
        for tag in re.findall(r"image: sluice/[a-z]+:(\S+)|name: sluice/[a-z]+\n +newTag: (\S+)", file.read_text()):
            assert re.fullmatch(rf"{re.escape(__version__)}(-.+)?", "".join(tag)), file


KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here; `make k8s-check` brings its own")
@pytest.mark.parametrize("overlay", rendering.overlays())
def test_an_overlay_with_everything_breaks_no_policy(overlay):
    manifests = rendering.render(Combination(overlay, COMPONENTS), Path(KUBECTL))
    assert policies.problems(Rendering(overlay, manifests)) == []
    assert json.dumps(manifests)


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here; `make k8s-check` brings its own")
@pytest.mark.parametrize("components", [("qdrant-tls",), ("qdrant-cluster", "qdrant-tls")])
def test_the_certificate_of_qdrant_has_the_names_by_which_it_is_called(components):
    found = Rendering("staging", rendering.render(Combination("staging", components), Path(KUBECTL)))
    assert policies.problems(found) == []
    urls = found.environment(container(found, "retriever"))["QDRANT_URL"].split(",")
    assert len(urls) == found.named("StatefulSet", "qdrant")["spec"]["replicas"]
    assert {urlsplit(url).hostname for url in urls} <= set(found.named("Certificate", "qdrant")["spec"]["dnsNames"])


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here; `make k8s-check` brings its own")
def test_alerts_link_to_the_runbook_that_the_overlay_names():
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        inner, outer = Path(folder, "inner"), Path(folder, "outer")
        named = {"name": "alerts", "behavior": "merge", "literals": ["runbook-url=https://wiki.example/sluice"]}
        for place, content in {
            inner: {
                "namespace": "sluice-staging",
                "resources": ["../../../deploy/k8s/overlays/staging"],
                "configMapGenerator": [named],
            },
            outer: {"resources": ["../inner"], "components": ["../../../deploy/k8s/components/monitoring"]},
        }.items():
            place.mkdir()
            (place / "kustomization.yaml").write_text(yaml.safe_dump(content))
        done = subprocess.run([KUBECTL, "kustomize", str(outer)], capture_output=True, text=True, check=True)
    links = re.findall(r"runbook_url: (\S+)", done.stdout)
    assert len(links) > 20
    assert all(re.fullmatch(r"https://wiki\.example/sluice#sluice[a-z0-9]+", link) for link in links)


def test_a_nightly_backup_makes_a_snapshot_before_it_deletes_any(whole):
    created, pruned = containers_of(whole.named("CronJob", "backup"))
    assert created["args"][:3] == ["snapshot", "create", "--all"]
    assert pruned["args"][:4] == ["snapshot", "prune", "--all", "--keep"]
    assert whole.named("CronJob", "backup")["spec"]["concurrencyPolicy"] == "Forbid"


def test_a_restore_never_runs_by_itself(whole):
    restore = whole.named("CronJob", "restore")
    assert restore["spec"]["suspend"] is True
    [restored] = containers_of(restore)
    assert restored["args"][:3] == ["snapshot", "restore", "--newest"]


def test_snapshots_have_a_volume_of_their_own(whole):
    mounted = {mount["mountPath"]: mount["name"] for mount in container(whole, "qdrant", "StatefulSet")["volumeMounts"]}
    assert mounted["/qdrant/storage"] != mounted["/qdrant/snapshots"]
    claims = whole.named("StatefulSet", "qdrant")["spec"]["volumeClaimTemplates"]
    assert {claim["metadata"]["name"] for claim in claims} >= {"storage", "snapshots"}
