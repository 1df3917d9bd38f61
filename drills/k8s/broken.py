"""Manifests broken on purpose, one at a time, to check the checks.

Policies have theirs in tests/unit/drills/test_k8s_policies.py; these are for the schemas, and for the two together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from drills.k8s.manifests import Rendering
from drills.k8s.rendering import Combination

# Has a resource of every kind.
WHOLE = Combination("staging", ("index", "monitoring", "qdrant-tls", "mtls"))
QDRANT_IN_CLEAR = Combination("staging", ("mtls",))
WITH_KEDA = Combination("staging", ("keda",))


@dataclass(frozen=True, slots=True)
class Broken:
    """One break: the manifest, the change, and the policy that has to refuse it."""

    name: str
    combination: Combination
    refused_by: str
    kind: str
    resource: str
    break_it: Callable[[dict], object]

    def applied_to(self, rendering: Rendering) -> Rendering:
        """Return the same manifests with this one broken."""
        manifests = copy.deepcopy(rendering.manifests)
        changed = Rendering(rendering.profile, manifests)
        self.break_it(changed.named(self.kind, self.resource))
        return changed


BROKEN = (
    Broken("replicas in words", WHOLE, "schema", "StatefulSet", "qdrant", lambda m: m["spec"].update(replicas="one")),
    Broken(
        "a misspelt field of a container",
        WHOLE,
        "schema",
        "Deployment",
        "gateway",
        lambda m: m["spec"]["template"]["spec"]["containers"][0].update(readynessProbe={}),
    ),
    Broken(
        "a port without a number",
        WHOLE,
        "schema",
        "Service",
        "gateway",
        lambda m: m["spec"]["ports"][0].pop("port"),
    ),
    Broken(
        "an HPA of a version long gone",
        WHOLE,
        "schema",
        "HorizontalPodAutoscaler",
        "gateway",
        lambda m: m.update(apiVersion="autoscaling/v2beta2"),
    ),
    Broken(
        "an HPA without a target",
        WHOLE,
        "schema",
        "HorizontalPodAutoscaler",
        "gateway",
        lambda m: m["spec"].pop("scaleTargetRef"),
    ),
    Broken(
        "a field that ServiceMonitors do not have",
        WHOLE,
        "schema",
        "ServiceMonitor",
        "sluice",
        lambda m: m["spec"]["endpoints"][0].update(every="15s"),
    ),
    Broken(
        "a rule without an expression",
        WHOLE,
        "schema",
        "PrometheusRule",
        "sluice",
        lambda m: m["spec"]["groups"][0]["rules"][0].pop("expr"),
    ),
    Broken(
        "a certificate without an issuer",
        WHOLE,
        "schema",
        "Certificate",
        "gateway",
        lambda m: m["spec"].pop("issuerRef"),
    ),
    Broken(
        "a trigger without a type",
        WITH_KEDA,
        "schema",
        "ScaledObject",
        "gateway",
        lambda m: m["spec"]["triggers"][0].pop("type"),
    ),
    Broken(
        "a limit of pods in words",
        WITH_KEDA,
        "schema",
        "ScaledObject",
        "gateway",
        lambda m: m["spec"].update(maxReplicaCount="many"),
    ),
    Broken(
        "a stage that is root",
        WHOLE,
        "restricted",
        "Deployment",
        "gateway",
        lambda m: m["spec"]["template"]["spec"]["securityContext"].update(runAsUser=0),
    ),
    Broken(
        "a budget that keeps every pod",
        WHOLE,
        "disruption",
        "PodDisruptionBudget",
        "gateway",
        lambda m: m["spec"].update(maxUnavailable=0),
    ),
    Broken("a Qdrant in clear beside mTLS", QDRANT_IN_CLEAR, "plain ports", "StatefulSet", "qdrant", lambda m: None),
    Broken(
        "metrics that are asked for in clear",
        WHOLE,
        "plain ports",
        "ServiceMonitor",
        "sluice",
        lambda m: m["spec"]["endpoints"][0].pop("scheme"),
    ),
    Broken(
        "a job that calls the gateway in clear",
        WHOLE,
        "plain ports",
        "Job",
        "index",
        lambda m: (
            m["spec"]["template"]["spec"]["containers"][0]["env"].clear()
            or m["spec"]["template"]["spec"]["containers"][0]["env"].append(
                {"name": "SLUICE_GATEWAY", "value": "dns:///gateway:50051"}
            )
        ),
    ),
)
