"""Policies for valid manifests of ours: each is a function of one rendering that yields its violations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drills.k8s.manifests import Found, Rendering
from drills.k8s.policies import networks, pods, profiles, scaling, tls

POLICIES: dict[str, Callable[[Rendering], Found]] = {
    check.__name__.replace("_", " "): check
    for check in (
        pods.restricted,
        pods.apart,
        pods.limits,
        pods.probes,
        pods.images,
        profiles.models,
        profiles.profile,
        profiles.settings,
        pods.grace,
        scaling.scaling,
        scaling.disruption,
        pods.spread,
        networks.networks,
        networks.ways_out,
        networks.addresses,
        networks.schemes,
        tls.plain_ports,
        networks.references,
        networks.one_namespace,
        networks.secrets,
    )
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One violation of a policy."""

    policy: str
    resource: str
    words: str


def problems(rendering: Rendering) -> list[Problem]:
    """Return all violations of all policies."""
    return [
        Problem(name, f"{manifest['kind']} {manifest['metadata']['name']}", words)
        for name, check in POLICIES.items()
        for manifest, words in check(rendering)
    ]
