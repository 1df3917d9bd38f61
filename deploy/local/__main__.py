"""`python -m deploy.local`: start, show and stop the stages on this machine."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import grpc
import typer
from rich.console import Console
from rich.table import Table

from deploy.local import secured, state
from deploy.local.paths import run_folder, shown
from deploy.local.processes import Process
from deploy.local.profiles import profile_names
from deploy.local.progress import say, starting
from deploy.local.secured import Secured
from deploy.local.stack import STAGES, LocalStack, stop_stages
from deploy.local.state import NAME, Running, Started
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError

app = typer.Typer(
    help="The stages as processes on this machine; the gateway on port 50051, the others on ports up to 50058.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=False,
)
_out, _err = Console(), Console(stderr=True)
_HEALTH_SECONDS = 2.0
_FOLLOW_SECONDS = 0.3
T = TypeVar("T")

Profile = Annotated[
    str, typer.Option(envvar="PROFILE", help=f"What to run: {', '.join(profile_names())}.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, for scripts.")]


@app.command(
    epilog="Examples:  [bold]up[/]  ·  [bold]up --profile staging[/]  ·  "
    "[bold]RERANK_ENABLED=1 python -m deploy.local up[/] (the environment goes before the profile)"
)
def up(profile: Profile = "development", as_json: AsJson = False) -> None:
    """Start the stages and leave them running."""
    with state.alone():
        started = state.read()
        if started is not None:
            _refuse_other(started, profile)
        else:
            started = _run(_start(profile))
    _show(started, as_json)
    if not as_json:
        if profile == secured.PROFILE:
            _out.print(f"Callers show keys: [bold]. {shown(secured.FOLDER / 'env')}[/] lets this shell call as `me`.")
        _out.print('Try [bold]sluice search "…" --rerank --explain[/], and stop with [bold]make down[/].')


@app.command(epilog="Example:  [bold]down[/]. Stopping what is not running is no error.")
def down(as_json: AsJson = False) -> None:
    """Stop the stages that `up` started, the gateway first."""
    with state.alone():
        started = state.read()
        if started is not None:
            _run(stop_stages(started.processes))
        state.forget()
    if as_json:
        _print_json({"stopped": sorted(started.stages) if started else []})
    else:
        _out.print("Stopped." if started else "Nothing is running.")


@app.command(epilog="Exit status: 0 when every stage is serving, 3 when not.")
def status(as_json: AsJson = False) -> None:
    """Show every stage: process, address, health, memory."""
    started = state.read()
    if started is None:
        if as_json:
            _print_json({"profile": None, "stages": []})
        else:
            _out.print("Nothing is running. Start with [bold]make up[/].")
        raise typer.Exit(3)
    if not _show(started, as_json):
        raise typer.Exit(3)


@app.command(epilog="Examples:  [bold]logs[/]  ·  [bold]logs gateway --lines 100 --follow[/]")
def logs(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}; all of them when left out.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of each.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written.")] = False,
) -> None:
    """Show the stages' logs, which stay when the stages have stopped."""
    if stage and stage not in STAGES:
        raise StartupError(f"there is no stage {stage!r}", remedy=f"Choose one of: {', '.join(STAGES)}.")
    files = [run_folder(NAME) / f"{name}.log" for name in STAGES if stage in ("", name)]
    offsets: dict[Path, int] = {}
    for file in files:
        if file.exists():
            text = file.read_text(encoding="utf-8", errors="replace")
            offsets[file] = len(text.encode())
            _out.rule(shown(file), align="left")
            for line in text.splitlines()[-lines:] if lines else []:
                _write(line)
    while follow:
        time.sleep(_FOLLOW_SECONDS)
        for file in filter(Path.exists, files):
            with file.open("rb") as stream:
                # A file that is shorter than before belongs to a new start.
                stream.seek(min(offsets.get(file, 0), file.stat().st_size))
                for raw in stream:
                    _write(raw.decode(errors="replace").rstrip("\n"))
                offsets[file] = stream.tell()


async def _start(profile: str) -> Started:
    with starting(_err) as on_serving:
        stack = LocalStack(name=NAME, profile=profile, well_known_ports=True, detached=True, on_serving=on_serving)
        try:
            stack.spawn()
            started = Started.of(stack)
            state.write(started)
            await stack.wait_until_serving()
        except BaseException:
            await stack.abandon()
            state.forget()
            raise
    return started


def _refuse_other(started: Started, profile: str) -> None:
    if dead := started.dead():
        raise StartupError(
            f"a part of what runs has died: {', '.join(dead)}",
            remedy=f"See why with `python -m deploy.local logs {dead[0]}`; then `make down` and `make up`.",
        )
    if started.profile != profile:
        raise StartupError(f"profile {started.profile!r} is running", remedy="`make down` first.")
    _err.print("Already running.")


def _show(started: Started, as_json: bool) -> bool:
    """Show the stages; return True if all are serving."""
    healths = _run(_healths(started))
    if as_json:
        rows = [_row(name, stage, healths[name]) for name, stage in started.stages.items()]
        _print_json({"profile": started.profile, "stages": rows})
        return all(health == "SERVING" for health in healths.values())
    table = Table(
        "stage", "pid", "address", "health", "memory", title=f"profile {started.profile}", title_justify="left"
    )
    for name, stage in started.stages.items():
        health = healths[name]
        table.add_row(
            name,
            str(stage.process.pid),
            stage.address,
            f"[{'green' if health == 'SERVING' else 'red'}]{health}[/]",
            f"{stage.process.resident_mib:,.0f} MiB",
        )
    _out.print(table)
    return all(health == "SERVING" for health in healths.values())


def _row(name: str, stage: Running, health: str) -> dict[str, object]:
    return {
        "stage": name,
        "pid": stage.process.pid,
        "address": stage.address,
        "metrics": stage.metrics_url,
        "log": str(stage.log),
        "health": health,
        "resident_mib": round(stage.process.resident_mib, 1),
    }


async def _healths(started: Started) -> dict[str, str]:
    """Return the health of every stage."""
    credentials = Secured(secured.FOLDER).credentials() if started.profile == secured.PROFILE else None
    answers = await asyncio.gather(
        *(_health(stage.process, stage.address, credentials) for stage in started.stages.values())
    )
    return dict(zip(started.stages, answers, strict=True))


async def _health(process: Process, address: str, credentials: grpc.ChannelCredentials | None) -> str:
    if not process.alive:
        return "DEAD"
    async with StageChannel(address, credentials=credentials) as channel:
        return await channel.health("", deadline=time.monotonic() + _HEALTH_SECONDS) or "SERVING"


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _print_json(value: object) -> None:
    _write(json.dumps(value, indent=2))


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the command; show a StartupError in two lines instead of a traceback."""
    try:
        app()
    except StartupError as error:
        say(error, _err)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
