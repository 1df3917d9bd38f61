"""docs/runbook.md as a dashboard, for links from panels and alerts."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models.text import TextMode

UID = "sluice-runbook"
FILE = Path(__file__).resolve().parents[2] / "docs" / "runbook.md"

_HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
_CHARACTERS_A_LINE = 160
_LINES_A_UNIT = 1.4  # of height on Grafana's grid


@cache
def sections() -> dict[str, str]:
    """Return the sections of the runbook by heading, in order, without the text before the first."""
    _, *parts = _HEADING.split(FILE.read_text())
    return {heading: body.strip() for heading, body in zip(parts[::2], parts[1::2], strict=True)}


def numbers() -> dict[str, int]:
    """Return the panel of each section."""
    return {heading: number for number, heading in enumerate(sections(), start=1)}


def built() -> dashboard.Dashboard:
    """Build a panel of text a section."""
    whole = (
        dashboard.Dashboard("Sluice: runbook")
        .uid(UID)
        .description("What each alert means and what to do about it; docs/runbook.md.")
        .tags(["sluice"])
        .timezone("browser")
    )
    for heading, number in numbers().items():
        body = sections()[heading]
        panel = text.Panel().id(number).title(heading).mode(TextMode.MARKDOWN).content(body)
        whole.with_panel(panel.span(24).height(_height(body)))
    return whole


def _height(body: str) -> int:
    lines = sum(1 + len(line) // _CHARACTERS_A_LINE for line in body.splitlines())
    return 3 + round(lines / _LINES_A_UNIT)
