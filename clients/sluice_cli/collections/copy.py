"""`sluice copy`: moves a collection from one gateway to another, and shows the progress."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Annotated

import typer

from sluice_cli.calls import DONE, Connection, command, connection_of, plain, print_json, say_warning, stdout
from sluice_cli.options import AsJson
from sluice_cli.progress import counted
from sluice_client import AsyncTransferClient, CopyProgress, SluiceError, copy_collection

app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def copy(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection, or one of its versions.")],
    origin: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Gateway to copy from.")],
    target: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Gateway to copy to.")],
    follow: Annotated[bool, typer.Option("--follow", help="Keep the copy up to date until interrupted.")] = False,
    as_json: AsJson = False,
) -> int:
    """Copy a collection to another Sluice, with its vectors, and make it live there.

    Both are used meanwhile: the origin is read and written, and what changes there is copied as well. The copy is
    compared passage by passage before it is made live. After a stop at any point, the same command goes on.

    With --follow the copy is live after the second comparison, and follows until the command is interrupted; it is
    not to be written by others before that.

    \b
    Examples:
      sluice copy papers --from 127.0.0.1:50051 --to dns:///gateway.sluice:50051
      sluice copy papers --from old:50051 --to new:50051 --follow
      sluice copy papers --from old:50051 --to new:50051 --json
    """
    connection = connection_of(context)
    started = time.monotonic()
    last: CopyProgress | None = None
    live: CopyProgress | None = None
    async with _place(connection, origin) as source, _place(connection, target) as there:
        with counted() as progress:
            bar = progress.add_task("beginning", total=0)
            try:
                async with aclosing(copy_collection(source, there, collection, follow=follow)) as steps:
                    async for step in steps:
                        last = step
                        live = step if step.switched else live
                        progress.update(
                            bar,
                            description=f"{plain(step.version)}: {_phase(step, live)}",
                            total=step.total_count,
                            completed=step.done_count,
                        )
            except SluiceError:
                if last is not None and live is None:
                    say_warning(f"stopped in {last.version}, which is not live; the same command goes on with it")
                raise
            except asyncio.CancelledError:
                if live is None:
                    raise
    assert last is not None  # noqa: S101  a copy has at least one step
    assert live is not None  # noqa: S101  and ends when it is live
    assert live.switched is not None  # noqa: S101  as that step says
    if as_json:
        print_json(
            {
                "version": last.version,
                "previous": live.switched.previous_version,
                "passages": last.total_count,
                "copied": last.copied_count,
                "removed": last.removed_count,
                "rounds": last.round,
                "equal": last.equal,
                "seconds": round(time.monotonic() - started, 3),
            }
        )
    else:
        equal = "equal to its origin" if last.equal else "not compared to the end since the last changes"
        stdout.print(
            f"{plain(last.version)} is live at {plain(target)}: {last.total_count:,} passages, {equal}; "
            f"{last.copied_count:,} copied, {last.removed_count:,} removed, {last.round:,} comparisons"
        )
    return DONE


def _place(connection: Connection, address: str) -> AsyncTransferClient:
    if connection.timeout is None:
        return AsyncTransferClient(address, **connection.credentials)
    return AsyncTransferClient(address, timeout=connection.timeout, **connection.credentials)


def _phase(step: CopyProgress, live: CopyProgress | None) -> str:
    if live is not None:
        return "following"
    return "copying" if step.round == 1 else f"comparison {step.round}"
