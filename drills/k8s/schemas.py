"""Schemas of Kubernetes and its operators: unknown fields, wrong types, missing values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from drills.k8s.rendering import Manifest
from drills.k8s.tools import package_folder

VERSIONS = ("1.30", "1.37")
"""Oldest supported and newest version of Kubernetes."""

# Published schemas of resources that are not part of Kubernetes, in packages.
_CUSTOM = {
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "Certificate": "cloudcoil.models.cert_manager.v1",
    "Issuer": "cloudcoil.models.cert_manager.v1",
}


def problems(manifest: Manifest, version: str) -> Iterator[str]:
    """Yield the problems of a manifest by the schemas of one version of Kubernetes."""
    kind = manifest["kind"]
    if kind in _CUSTOM:
        yield from _custom_problems(manifest)
        return
    group = manifest["apiVersion"].split("/")
    api = f"{group[0].split('.')[0]}-{group[1]}" if len(group) == 2 else group[0]
    validator = _validator(version, f"{kind.lower()}-{api}")
    if validator is None:
        yield f"Kubernetes {version} has no {kind} in {manifest['apiVersion']}"
        return
    for error in validator.iter_errors(manifest):
        yield f"{'.'.join(str(part) for part in error.absolute_path) or kind}: {error.message} (Kubernetes {version})"


def _custom_problems(manifest: Manifest) -> Iterator[str]:
    from pydantic import ValidationError  # noqa: PLC0415  beside the packages of the check

    model = getattr(import_module(_CUSTOM[manifest["kind"]]), manifest["kind"])
    try:
        read = model.model_validate(manifest)
    except ValidationError as error:
        for detail in error.errors():
            yield f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
        return
    # The model drops unknown fields silently: then less comes out than went in.
    kept = json.loads(read.model_dump_json(by_alias=True, exclude_unset=True))
    yield from _lost(manifest, kept, "")


def _lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}{key}: the published schema has no such field"
            else:
                yield from _lost(value, kept[key], f"{path}{key}.")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (before, after) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(before, after, f"{path}{index}.")


@cache
def _validator(version: str, name: str) -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415  a package of the check

    file = _folder(version) / f"{name}.json"
    if not file.exists():
        return None
    return Draft202012Validator(json.loads(file.read_text()), registry=_registry(version))


@cache
def _registry(version: str) -> Any:
    from referencing import Registry, Resource  # noqa: PLC0415  a package of the check

    definitions = Resource.from_contents(json.loads((_folder(version) / "_definitions.json").read_text()))
    return definitions @ Registry()


def _folder(version: str) -> Any:
    return package_folder("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
