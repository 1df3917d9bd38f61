"""`sluice reindex`: rebuilds a collection by another model or with token vectors, and shows the progress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from sluice_cli.calls import DONE, NEEDS_A_LOOK, command, connection_of, plain, print_json, say_warning, stdout
from sluice_cli.collections.versions import checks_view
from sluice_cli.options import AsJson, Collection, CollectionArgument, Late, one_of
from sluice_cli.progress import DONE_OF_TOTAL, counted
from sluice_client import ReindexPhase, ReindexProgress, SluiceError, VersionCheck

_PHASES = {
    ReindexPhase.COPY: "copying",
    ReindexPhase.SWEEP: "sweeping",
    ReindexPhase.VERIFY: "verifying",
    ReindexPhase.SWITCHED: "switched",
    ReindexPhase.UNKNOWN: "working",
}


app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def reindex(
    context: typer.Context,
    name: CollectionArgument = "",
    collection: Collection = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Model, by its short or whole name; an embedder serves it. As it is if not given."
        ),
    ] = "",
    late: Late = None,
    as_json: AsJson = False,
) -> int:
    """Build a version by another model, or with token vectors; switch to it.

    It is verified first. Meanwhile questions are answered, and documents stored and deleted. The version before stays
    for `sluice rollback`. After a stop at any point, the same command goes on; the live version is untouched until the
    switch.

    The gateway has to know an embedder that serves the model: EMBEDDER_ADDITIONAL_ADDRESSES. --late makes token vectors
    for reranking by late interaction, by the TOKEN_MODEL of an embedder. Where a model stays, its vectors are copied.

    \b
    Examples:
      sluice reindex --model all-mpnet-base-v2
      sluice reindex papers --late
      sluice reindex papers --model all-mpnet-base-v2 --json
    """
    collection = one_of(name, collection)
    started = time.monotonic()
    copied = 0
    last: ReindexProgress | None = None
    checks: Sequence[VersionCheck] = ()
    async with connection_of(context).client() as client:
        with counted(DONE_OF_TOTAL + ", {task.fields[rate]:.0f}/s") as progress:
            bar = progress.add_task("beginning", total=0, rate=0.0)
            try:
                async for step in client.reindex(model, collection=collection, token_vectors=late):
                    copied += step.copied_count
                    checks = step.checks or checks
                    rate = copied / max(1e-9, time.monotonic() - started)
                    description = f"{plain(step.version)}: {_PHASES[step.phase]}"
                    progress.update(
                        bar, description=description, total=step.total_count, completed=step.done_count, rate=rate
                    )
                    last = step
            except SluiceError:
                if last is not None:
                    say_warning(f"stopped in {last.version}; nothing is switched, and the same command goes on with it")
                raise
    assert last is not None  # noqa: S101  a rebuild has at least one step
    switched = last.phase is ReindexPhase.SWITCHED
    seconds = time.monotonic() - started
    if as_json:
        print_json(
            {
                "version": last.version,
                "switched": switched,
                "previous": last.previous_version,
                "passages": last.total_count,
                "copied": copied,
                "checks": checks,
                "seconds": round(seconds, 3),
            }
        )
    else:
        if switched and not last.previous_version:
            stdout.print(f"{plain(last.version)} is live and by these models already: nothing to do")
        elif switched:
            stays = f"; {last.previous_version} stays for `sluice rollback`"
            stdout.print(
                f"{plain(last.version)} is live: {last.total_count:,} passages, {copied:,} of them copied now, "
                f"{seconds:.1f} s{plain(stays)}",
            )
        stdout.print(checks_view(checks))
    if switched:
        return DONE
    say_warning(
        f"nothing is switched: {last.version} is not what it should be. The same command compares it with the live "
        f"version again; `sluice collections --drop {last.version}` begins anew"
    )
    return NEEDS_A_LOOK
