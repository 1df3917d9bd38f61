"""Images of Sluice, built by docker, podman or buildah, whose command lines are nearly the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local.paths import ROOT
from deploy.stages import STAGES
from services import __version__
from services.chassis.errors import StartupError

Tool = Literal["docker", "podman", "buildah"]
Engine = Literal["onnx", "openvino", "torch"]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
PREFIX = os.environ.get("IMAGE_PREFIX", "sluice")
"""First part of the name of every image."""
BASE = "debian:bookworm-slim"
DEBIAN = "bookworm"
"""Release of `BASE`, which `debootstrap` makes if no registry of images can be reached."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image: a service, and for a model stage its model and engine."""

    service: str
    model: str = ""
    token_model: str = ""
    """Model of token vectors that it holds beside the model."""
    engine: Engine = "onnx"
    set_up: str = ""
    """Program that fetches the data of the image."""

    @property
    def tag(self) -> str:
        """Name of the image: prefix and service, then the release, the model, and `cuda` for torch."""
        parts = (__version__, self.model.rsplit("/", 1)[-1], "cuda" if self.engine == "torch" else "")
        return f"{PREFIX}/{self.service}:{'-'.join(part for part in parts if part)}"


IMAGES = (
    *(Image(spec.name, spec.model, spec.token_model, set_up=spec.set_up) for spec in STAGES),
    Image("client"),
)
"""Images that `make images` builds: the stages, with models that packages carry, and the `sluice` command."""


@dataclass(frozen=True, slots=True)
class Builder:
    """Builder of images on this machine."""

    tool: Tool
    base: str = BASE
    pip_configuration: Path | None = None
    certificates: Path | None = None
    volumes: tuple[str, ...] = ()
    isolation: str = ""

    def command(self, image: Image) -> list[str]:
        """Return the command line that builds an image."""
        arguments = {
            "BASE": self.base,
            "SERVICE": image.service,
            "MODEL": image.model,
            "TOKEN_MODEL": image.token_model if image.model else "",
            "ENGINE": image.engine,
            "SET_UP": image.set_up,
            "COMMAND": "sluice" if image.service == "client" else f"python -m services.{image.service}",
        }
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
            # Layers are kept, so that stages share them.
            *(("--layers",) if self.tool != "docker" else ()),
            str(ROOT),
        ]

    def build(self, image: Image, log: Path) -> None:
        """Build an image. Raises StartupError with the end of the log if that fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            done = subprocess.run(  # noqa: S603  our own words
                self.command(image), cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
            raise StartupError(
                f"{image.tag} was not built. The end of its log:\n{tail}",
                remedy=f"Read {log}; where packages come from is --pip-conf, whom to trust --ca, the base --base.",
            )

    def size_mib(self, image: Image) -> float:
        """Return the size of all layers of the image, in MiB."""
        if self.tool != "buildah":
            return float(json.loads(output(self.tool, "image", "inspect", image.tag))[0]["Size"]) / 2**20
        with container(image) as name:
            root = output("buildah", "mount", name)
            return int(output("du", "--summarize", "--bytes", "--one-file-system", root).split()[0]) / 2**20


def found_tool() -> Tool:
    """Return the first of docker, podman and buildah that works here."""
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
    """Yield the name of a buildah container of an image."""
    name = output("buildah", "from", "--pull-never", image.tag)
    try:
        yield name
    finally:
        output("buildah", "rm", name)


def make_base(folder: Path, name: str) -> None:
    """Make a base image from Debian's packages. Needs root, debootstrap and buildah."""
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
    """Return the output of a command. Raises StartupError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own words
    if done.returncode:
        raise StartupError(
            f"`{' '.join(command)}` failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}",
            remedy="Run it by hand to see all of it.",
        )
    return done.stdout.strip()
