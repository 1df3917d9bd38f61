"""Progress of a starting stack, and errors of a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deploy.local.stack import STAGES
from services.chassis.errors import StartupError


@contextmanager
def starting(console: Console) -> Iterator[Callable[[str], None]]:
    """Show one line a stage, with a clock; yield the function to call when a stage serves."""
    columns = (SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description:<10}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {stage: progress.add_task(stage, total=1) for stage in STAGES}
        yield lambda stage: progress.update(tasks[stage], completed=1)


def say(error: StartupError, console: Console) -> None:
    """Print an error in two sentences instead of a traceback."""
    console.print(f"[bold red]{escape(error.message)}[/]", highlight=False, soft_wrap=True)
    console.print(f"[bold]What to do:[/] {escape(error.remedy)}", highlight=False, soft_wrap=True)
