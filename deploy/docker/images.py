"""The images of Sluice, and what builds them: docker, podman or buildah, which take nearly the same words."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from deploy.local.paths import ROOT
from services.chassis.errors import StartupError

Tool = Literal["docker", "podman", "buildah"]
Engine = Literal["onnx", "openvino", "torch"]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
BASE = "debian:bookworm-slim"
DEBIAN = "bookworm"
"""The release that `BASE` is of, and that `debootstrap` makes where no registry of images can be reached."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: a service, and for a model stage what is baked in and computed with."""

    service: str
    model: str = ""
    engine: Engine = "onnx"

    @property
    def tag(self) -> str:
        """The name under which overlays of deploy/k8s know it: the release, then the model, then `cuda` for torch."""
        parts = (version("sluice"), self.model.rsplit("/", 1)[-1], "cuda" if self.engine == "torch" else "")
        return f"sluice/{self.service}:{'-'.join(part for part in parts if part)}"


IMAGES = (
    Image("gateway"),
    Image("embedder", "all-MiniLM-L6-v2"),
    Image("reranker", "ms-marco-MiniLM-L-12-v2"),
    Image("expander"),
    Image("retriever"),
    Image("rollout"),
    Image("client"),
)
"""What `make images` builds: the stages with models that packages carry, and the `sluice` command."""


@dataclass(frozen=True, slots=True)
class Builder:
    """How images are built here."""

    tool: Tool
    base: str = BASE
    pip_configuration: Path | None = None
    certificates: Path | None = None
    volumes: tuple[str, ...] = ()
    isolation: str = ""

    def command(self, image: Image) -> list[str]:
        """The command line that builds an image."""
        arguments = {"BASE": self.base, "SERVICE": image.service, "MODEL": image.model, "ENGINE": image.engine}
        secrets = {"pip": self.pip_configuration, "ca": self.certificates}
        return [
            self.tool,
            "build",
            "--file",
            str(DOCKERFILE),
            "--tag",
            image.tag,
            *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
            *(word for name, file in secrets.items() if file for word in ("--secret", f"id={name},src={file}")),
            *(word for volume in self.volumes for word in ("--volume", volume)),
            *(("--isolation", self.isolation) if self.isolation else ()),
            # Layers are kept, so that what stages share is made once.
            *(("--layers",) if self.tool != "docker" else ()),
            str(ROOT),
        ]

    def build(self, image: Image, log: Path) -> None:
        """Builds an image; StartupError with the end of the log where that fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            done = subprocess.run(  # noqa: S603  our own words
                self.command(image), cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise StartupError(
                f"{image.tag} was not built. The end of its log:\n{tail}",
                remedy=f"Read {log}; where packages come from is --pip-conf, whom to trust --ca, the base --base.",
            )

    def size_mib(self, image: Image) -> float:
        """Size of the image's files, in MiB, all layers together."""
        if self.tool != "buildah":
            return float(json.loads(output(self.tool, "image", "inspect", image.tag))[0]["Size"]) / 2**20
        with container(image) as name:
            root = output("buildah", "mount", name)
            return int(output("du", "--summarize", "--bytes", "--one-file-system", root).split()[0]) / 2**20


def found_tool() -> Tool:
    """The first of docker, podman and buildah that works here."""
    probes: dict[Tool, Sequence[str]] = {
        "docker": ("docker", "info"),
        "podman": ("podman", "info"),
        "buildah": ("buildah", "info"),
    }
    for tool, probe in probes.items():
        if shutil.which(tool) and subprocess.run(probe, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return tool
    raise StartupError(
        "neither docker, podman nor buildah works here",
        remedy="Install one; on Debian, `apt-get install podman` or `apt-get install buildah` needs no daemon.",
    )


@contextmanager
def container(image: Image) -> Iterator[str]:
    """The name of a container of buildah's from an image that is here."""
    name = output("buildah", "from", "--pull-never", image.tag)
    try:
        yield name
    finally:
        output("buildah", "rm", name)


def make_base(folder: Path, name: str) -> None:
    """Makes a base image from Debian's packages alone. Needs root, debootstrap and buildah."""
    if missing := [tool for tool in ("debootstrap", "buildah") if shutil.which(tool) is None]:
        raise StartupError(f"{' and '.join(missing)} missing", remedy=f"`apt-get install {' '.join(missing)}`.")
    if not (folder / "etc" / "debian_version").exists():
        output("debootstrap", "--variant=minbase", DEBIAN, str(folder))
    scratch = output("buildah", "from", "scratch")
    try:
        output("buildah", "add", "--quiet", scratch, str(folder), "/")
        output("buildah", "commit", "--quiet", scratch, name)
    finally:
        output("buildah", "rm", scratch)


def output(*command: str) -> str:
    """What a command says; StartupError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own words
    if done.returncode:
        raise StartupError(
            f"`{' '.join(command)}` failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}",
            remedy="Run it by hand to see all of it.",
        )
    return done.stdout.strip()
