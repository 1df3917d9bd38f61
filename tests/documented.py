"""The command lines that README and documentation show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("services/*/README.md"),
        *ROOT.glob("deploy/*/README.md"),
    ]
)
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s{2,}#\s.*$")


@dataclass(frozen=True)
class Shown:
    """One command line, without its comment."""

    page: str
    line: str


def shown_commands() -> list[Shown]:
    """Every command line after a `$` in a console block, each once, in the order of the pages."""
    found = [
        Shown(page.relative_to(ROOT).as_posix(), _COMMENT.sub("", line[2:]).strip())
        for page in PAGES
        for block in _CONSOLE.findall(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return list({command.line: command for command in found}.values())
