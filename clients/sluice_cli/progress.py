"""A progress bar for work that is counted."""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sluice_cli.calls import stderr

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
