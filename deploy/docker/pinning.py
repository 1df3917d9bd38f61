"""Digests of images of others: a tag can be moved to another image, a digest cannot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from deploy.docker.images import Tool, output
from deploy.local.paths import ROOT

FILES = (
    ROOT / "deploy" / "docker" / "Dockerfile",
    ROOT / "deploy" / "docker" / "images.py",
    ROOT / "deploy" / "docker" / "compose.yaml",
    ROOT / "deploy" / "k8s" / "base" / "qdrant" / "statefulset.yaml",
    ROOT / "deploy" / "k8s" / "components" / "ollama" / "reasoner.yaml",
)
"""Files that name images of others."""
_REFERENCE = re.compile(
    r"\b(?P<name>(?:debian|qdrant/qdrant|prom/prometheus|grafana/grafana|jaegertracing/jaeger|ollama/ollama):[A-Za-z0-9_.-]+)"
    r"(?P<digest>@sha256:[0-9a-f]{64})?"
)


def references(text: str) -> dict[str, str]:
    """Return the images that a text names, each with its digest, or nothing."""
    return {found["name"]: (found["digest"] or "").removeprefix("@") for found in _REFERENCE.finditer(text)}


def pinned(text: str, digests: Mapping[str, str]) -> str:
    """Return the text with the digest of each image behind its tag."""

    def behind(found: re.Match[str]) -> str:
        digest = digests.get(found["name"])
        return f"{found['name']}@{digest}" if digest else found[0]

    return _REFERENCE.sub(behind, text)


def unpinned() -> list[str]:
    """Return the images that are named by their tags alone."""
    named = {name: digest for file in FILES for name, digest in references(file.read_text(encoding="utf-8")).items()}
    return sorted(name for name, digest in named.items() if not digest)


def digest_of(tool: Tool, name: str) -> str:
    """Ask the registry of an image for its digest, by pulling it. Raises StartupError."""
    output(tool, "pull", name)
    if tool == "buildah":
        return output("buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", name)
    return output(tool, "image", "inspect", "--format", "{{index .RepoDigests 0}}", name).rpartition("@")[2]


def pin(tool: Tool) -> dict[str, str]:
    """Write the digests of all images into the files that name them; return them."""
    names = {name for file in FILES for name in references(file.read_text(encoding="utf-8"))}
    digests = {name: digest_of(tool, name) for name in sorted(names)}
    for file in FILES:
        write(file, digests)
    return digests


def write(file: Path, digests: Mapping[str, str]) -> None:
    """Write digests into one file."""
    file.write_text(pinned(file.read_text(encoding="utf-8"), digests), encoding="utf-8")
