"""Policies of settings: models, profiles, variables."""

from __future__ import annotations

from pydantic import ValidationError

from deploy.local.profiles import load_profile
from drills.k8s.manifests import Found, Rendering, config_maps_of, pod_of, stage_of
from tests.registry import STAGES

_MODEL_STAGES = {stage.name: stage.spec.model_setting.removesuffix("_MODEL") for stage in STAGES if stage.spec.model}
# Variables that the components gpu and qdrant-cluster, and nothing else, may set against the profile.
_OVER_PROFILE = {"EMBEDDING_DEVICE", "RERANK_DEVICE", "QDRANT_SHARDS", "QDRANT_REPLICAS"}


def models(rendering: Rendering) -> Found:
    """Hold or mount the profile's model; agree on the use of a GPU."""
    for manifest in rendering.stages():
        prefix = _MODEL_STAGES.get(stage_of(manifest))
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


def profile(rendering: Rendering) -> Found:
    """Give every stage the base and the profile of its overlay, and contradict neither."""
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
    different = {name for name, _ in (base["data"] | own["data"]).items() ^ wanted.items()} - _OVER_PROFILE
    if different:
        yield own, f"differs from deploy/profiles in {', '.join(sorted(different))}"
    names = [base["metadata"]["name"], own["metadata"]["name"]]
    for manifest in rendering.stages():
        container = pod_of(manifest)["containers"][0]
        sources = config_maps_of(container)
        if sources[:2] != names:
            yield manifest, "does not get its variables from the base and the profile first"
        said = {entry["name"] for entry in container.get("env", ())}
        for source in sources[2:]:
            found = rendering.named("ConfigMap", source)
            said |= set(found["data"]) if found else set()
        if against := sorted(said & set(wanted) - _OVER_PROFILE):
            yield manifest, f"says {', '.join(against)}, which is the profile's to say"


def settings(rendering: Rendering) -> Found:
    """Set only variables that the stage has, to values that it accepts."""
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
