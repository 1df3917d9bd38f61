"""`python -m deploy.docker`: build images, and start each once to check that it serves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.docker import containers, pinning
from deploy.docker.containers import Checked
from deploy.docker.images import BASE, IMAGES, Builder, Engine, Image, Tool, found_tool, make_base
from deploy.local.paths import BUILD, ROOT, shown
from deploy.local.profiles import load_profile
from deploy.local.progress import say
from services.chassis.errors import StartupError

LOGS = BUILD / "images"
RESULT = BUILD / "images.json"

app = typer.Typer(
    help="The images of the stages: deploy/docker/Dockerfile.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_out, _err = Console(), Console(stderr=True)

Services = Annotated[list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Which; all when left out.")]
WhichTool = Annotated[
    Tool | None, typer.Option("--tool", envvar="IMAGE_TOOL", help="The first that works here, if not given.")
]


@app.command(
    epilog="Examples:  [bold]build[/]  ·  [bold]build gateway retriever[/]  ·  "
    "[bold]build embedder --model all-mpnet-base-v2 --engine torch[/]  ·  [bold]build embedder --model ''[/] (mounted)"
)
def build(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    services: Services = None,
    model: Annotated[str | None, typer.Option(help="Model to bake in; empty for none. One model stage only.")] = None,
    engine: Annotated[Engine, typer.Option(help="What a model stage computes with.")] = "onnx",
    tool: WhichTool = None,
    base: Annotated[str, typer.Option(envvar="IMAGE_BASE", help="Debian or Ubuntu with Python 3.11 or newer.")] = BASE,
    pip_conf: Annotated[
        Path | None, typer.Option(envvar="IMAGE_PIP_CONF", help="pip.conf that says where packages come from.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(envvar="IMAGE_CA", help="Certificates to trust while building.")] = None,
    volume: Annotated[
        list[str] | None,
        typer.Option(envvar="IMAGE_VOLUMES", help="HOST:CONTAINER:ro while building, as for wheels; not with docker."),
    ] = None,
    isolation: Annotated[str, typer.Option(envvar="IMAGE_ISOLATION", help="chroot, where no other may be had.")] = "",
) -> None:
    """Build images. What stages share is built once; logs are in build/images."""
    builder = Builder(tool or found_tool(), base, pip_conf, ca, tuple(volume or ()), isolation)
    images = _chosen(services, model, engine)
    if base == BASE and "@" not in base:
        _err.print(f"[yellow]![/] {base} is named by its tag, which can be moved: `make images-pin` writes its digest.")
    for image in images:
        started = time.monotonic()
        with _progress() as progress:
            progress.add_task(image.tag)
            builder.build(image, LOGS / f"{image.service}.log")
        _err.print(f"[green]✓[/] {image.tag}  {time.monotonic() - started:.0f} s  {builder.size_mib(image):,.0f} MiB")


@app.command(epilog="Examples:  [bold]check[/]  ·  [bold]check embedder --json[/]")
def check(
    services: Services = None,
    tool: WhichTool = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Start every image once and ask for its health; see what it holds and may write. Goes to build/images.json."""
    chosen = tool or found_tool()
    LOGS.mkdir(parents=True, exist_ok=True)
    seen: list[Checked] = []
    with _progress() as progress:
        for image in _chosen(services, None, "onnx"):
            task = progress.add_task(image.tag)
            seen.append(asyncio.run(_checked(chosen, image)))
            progress.update(task, completed=1)
    rows = [asdict(row) for row in seen]
    if not services:
        RESULT.write_text(json.dumps({"tool": chosen, "images": rows}, indent=2) + "\n")
        _err.print(f"Written to {shown(RESULT)}.")
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _show(seen)
    sys.exit(1 if any(row.problems for row in seen) else 0)


@app.command(epilog="Example:  [bold]pin[/]")
def pin(tool: WhichTool = None) -> None:
    """Write the digests of the images of others (Debian, Qdrant and the rest) into the files that name them."""
    for name, digest in pinning.pin(tool or found_tool()).items():
        _err.print(f"[green]✓[/] {name}  {digest}")


@app.command(epilog="Example:  [bold]contents gateway[/]")
def contents(services: Services = None, tool: WhichTool = None) -> None:
    """Bring the list of what each image holds, as CycloneDX, to build/sbom."""
    folder = BUILD / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for image in _chosen(services, None, "onnx"):
        file = folder / f"{image.service}.json"
        file.write_text(containers.contents(tool or found_tool(), image), encoding="utf-8")
        _err.print(f"[green]✓[/] {shown(file)}")


@app.command(epilog="Example:  [bold]base[/], then [bold]build --base localhost/sluice-base --isolation chroot[/]")
def base(
    name: Annotated[str, typer.Argument(help="What to call it.")] = "localhost/sluice-base",
) -> None:
    """Make a base image from Debian's packages, where no registry of images can be reached. Root and debootstrap."""
    with _progress() as progress:
        progress.add_task(name)
        make_base(LOGS / "base", name)
    _err.print(f"[green]✓[/] {name}")


async def _checked(tool: Tool, image: Image) -> Checked:
    size = Builder(tool).size_mib(image)
    user, problems = containers.problems(tool, image)
    if image.service == "client":
        return Checked(image.tag, round(size, 1), containers.release(tool, image), 0.0, user, problems)
    # As `make up` starts them, with state below /tmp, the only place that may be written.
    environment = {
        **load_profile("development"),
        "QDRANT_PATH": "/tmp/qdrant",  # noqa: S108  the container's own
        "QDRANT_SNAPSHOT_PATH": "/tmp/snapshots",  # noqa: S108  the container's own
        "ROLLOUT_DATABASE_URL": "sqlite:////tmp/rollout.db",
        "ROLLOUT_SNAPSHOT_PATH": "/tmp/snapshot.json",  # noqa: S108  the container's own
    }
    async with containers.serving(tool, image, environment, LOGS / f"{image.service}.run.log") as seconds:
        return Checked(image.tag, round(size, 1), "SERVING", round(seconds, 1), user, problems)


def _show(seen: Sequence[Checked]) -> None:
    table = Table("image", "size", "health", "start", "user", "problems", title="images", title_justify="left")
    for row in seen:
        table.add_row(
            row.image,
            f"{row.size_mib:,.0f} MiB",
            f"[green]{row.health}[/]",
            f"{row.start_seconds:.1f} s" if row.start_seconds else "",
            row.user,
            f"[red]{'; '.join(row.problems)}[/]" if row.problems else "none",
        )
    _out.print(table)


def _chosen(services: Sequence[str] | None, model: str | None, engine: Engine) -> list[Image]:
    known = {image.service: image for image in IMAGES}
    if unknown := sorted(set(services or ()) - set(known)):
        raise StartupError(f"no image {', '.join(unknown)}", remedy=f"Choose from {', '.join(known)}.")
    images = [known[service] for service in services or known]
    if model is None and engine == "onnx":
        return images
    if len(images) != 1 or not images[0].model:
        raise StartupError("--model and --engine are for one model stage", remedy="Name it: build embedder --model ...")
    return [replace(images[0], model=images[0].model if model is None else model, engine=engine)]


def _progress() -> Progress:
    columns = (SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=_err, transient=True)


def main() -> None:
    """Run the command; show a StartupError in two lines instead of a traceback."""
    os.chdir(ROOT)
    try:
        app()
    except StartupError as error:
        say(error, _err)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
