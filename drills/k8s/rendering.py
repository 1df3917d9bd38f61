"""Renderings of overlays with components, by the real `kubectl kustomize`."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.local.paths import BUILD, ROOT
from services.chassis.errors import StartupError

K8S = ROOT / "deploy" / "k8s"
# In this order each finds the resources that it changes: keda takes its limits from the HPAs.
COMPONENTS = (
    "qdrant-cluster",
    "index",
    "backup",
    "mounted-models",
    "gpu",
    "monitoring",
    "tracing",
    "rollout-postgres",
    "ollama",
    "qdrant-tls",
    "mtls",
    "keda",
)
# Each stands for one of our own, and so does not go with these.
ALONE = ("qdrant-external", "llm")
# Goes with these alone: in clear, Qdrant would be left out.
_NEEDS = {"mtls": ("qdrant-tls",)}
_OWN = ("qdrant-cluster", "qdrant-tls", "ollama")
_RENDER_SECONDS = 300

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Combination:
    """One overlay with components."""

    overlay: str
    components: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name for messages."""
        return " + ".join((self.overlay, *self.components))


def overlays() -> list[str]:
    """Return the names of all overlays."""
    return sorted(folder.name for folder in (K8S / "overlays").iterdir())


def combinations() -> Iterator[Combination]:
    """Yield every overlay alone, with each component and what it needs, and with all, over our own parts or others'."""
    for overlay in overlays():
        yield Combination(overlay)
        yield from (Combination(overlay, (*_NEEDS.get(one, ()), one)) for one in COMPONENTS + ALONE)
        yield Combination(overlay, COMPONENTS)
        yield Combination(overlay, ALONE + tuple(name for name in COMPONENTS if name not in _OWN))


def render(combination: Combination, kubectl: Path) -> list[Manifest]:
    """Return the manifests. Raises StartupError with kustomize's message."""
    BUILD.mkdir(exist_ok=True)
    if not combination.components:
        return _kustomize(K8S / "overlays" / combination.overlay, kubectl, combination.name)
    # kustomize takes folders by relative paths alone.
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="kustomize-") as folder:
        up = "../../deploy/k8s"
        Path(folder, "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "namespace": _namespace(combination.overlay),
                    "resources": [f"{up}/overlays/{combination.overlay}"],
                    "components": [f"{up}/components/{component}" for component in combination.components],
                }
            ),
            encoding="utf-8",
        )
        return _kustomize(Path(folder), kubectl, combination.name)


def _namespace(overlay: str) -> str:
    """Return the namespace of an overlay, which a kustomization with components has to repeat."""
    kustomization = yaml.safe_load((K8S / "overlays" / overlay / "kustomization.yaml").read_text())
    return str(kustomization["namespace"])


def _kustomize(folder: Path, kubectl: Path, name: str) -> list[Manifest]:
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=_RENDER_SECONDS, check=False
    )
    if done.returncode or done.stderr.strip():  # a warning counts as an error
        raise StartupError(
            f"{name}: {done.stderr.strip()}",
            remedy=f"`kubectl kustomize {folder}` shows it; components after overlays.",
        )
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document]
