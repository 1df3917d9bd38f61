"""`sluice reindex`: a collection by another model, telling how far it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, say_warning, stderr, stdout
from sluice_cli.verify import checks_view
from sluice_client import ReindexPhase, ReindexProgress, SluiceError, VersionCheck

_PHASES = {
    ReindexPhase.COPY: "embedding",
    ReindexPhase.SWEEP: "sweeping",
    ReindexPhase.VERIFY: "verifying",
    ReindexPhase.SWITCHED: "switched",
    ReindexPhase.UNKNOWN: "working",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    model: str
    collection: str
    as_json: bool


async def reindex(connection: Connection, options: Options) -> int:
    """Builds, verifies and switches; the exit code."""
    started = time.monotonic()
    copied = 0
    last: ReindexProgress | None = None
    checks: Sequence[VersionCheck] = ()
    async with connection.client() as client:
        with _progress() as progress:
            bar = progress.add_task("beginning", total=0, rate=0.0)
            try:
                async for step in client.reindex(options.model, collection=options.collection):
                    copied += step.copied
                    checks = step.checks or checks
                    rate = copied / max(1e-9, time.monotonic() - started)
                    description = f"{plain(step.version)}: {_PHASES[step.phase]}"
                    progress.update(bar, description=description, total=step.total, completed=step.done, rate=rate)
                    last = step
            except SluiceError:
                if last is not None:
                    say_warning(f"stopped in {last.version}; nothing is switched, and the same command goes on with it")
                raise
    assert last is not None  # noqa: S101  there is no rebuild without a step
    switched = last.phase is ReindexPhase.SWITCHED
    seconds = time.monotonic() - started
    if options.as_json:
        print_json(
            {
                "version": last.version,
                "switched": switched,
                "previous": last.previous_version,
                "documents": last.total,
                "copied": copied,
                "checks": checks,
                "seconds": round(seconds, 3),
            }
        )
    else:
        if switched and not last.previous_version:
            stdout.print(f"{plain(last.version)} is live and by this model already: nothing to do")
        elif switched:
            stays = f"; {last.previous_version} stays for `sluice rollback`"
            stdout.print(
                f"{plain(last.version)} is live: {last.total:,} documents, {copied:,} of them embedded now, "
                f"{seconds:.1f} s{plain(stays)}",
                markup=False,
            )
        stdout.print(checks_view(checks))
    if switched:
        return DONE
    say_warning(
        f"nothing is switched: {last.version} is not what it should be. The same command compares it with the live "
        f"version again; `sluice collections --drop {last.version}` begins anew"
    )
    return NEEDS_A_LOOK


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,} of {task.total:,}, {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )
