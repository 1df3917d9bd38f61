"""A progress bar for work that is counted, and a view that is looked at again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from sluice_cli.calls import plain, stderr, stdout
from sluice_client import SluiceError

DONE_OF_TOTAL = "{task.completed:,} of {task.total:,}"


def counted(numbers: str = DONE_OF_TOTAL) -> Progress:
    """Make a bar with its description, these numbers and the time that is left; nothing is shown but on a terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn(numbers),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )


async def live(view: RenderableType, look: Callable[[], Awaitable[RenderableType]], seconds: float) -> None:
    """Show a view on the whole screen, and look again every so many seconds, until it is interrupted."""
    with Live(view, console=stdout, auto_refresh=False, screen=True) as screen:
        while True:
            await asyncio.sleep(seconds)
            try:
                view = await look()
                screen.update(view, refresh=True)
            except SluiceError as error:  # it may come back; the last view stays
                lost = Text(f"not answering: {plain(error.message)}", style="bold red")
                screen.update(Group(view, lost), refresh=True)
