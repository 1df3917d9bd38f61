"""Writes the index of decisions, docs/adr/README.md: `python tools/adr_index.py`, or `--check`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "adr"
HEAD = re.compile(r"# (\d+)\. (.+)\n\nDate: (\S+)\nStatus: (.+)\n")


def index() -> str:
    """One row a decision; exit where a page has no title, date, status, reason, decision or price."""
    rows = []
    for page in sorted(FOLDER.glob("0*.md")):
        text = page.read_text(encoding="utf-8")
        head = HEAD.match(text)
        missing = [part for part in ("## Why", "## Decision", "## Price") if part not in text]
        if head is None or missing or int(head[1]) != int(page.name[:4]):
            sys.exit(f"{page.name} needs a title with its number, date, status, and {missing or 'nothing else'}")
        rows.append(f"| [{head[1]}]({page.name}) | {head[2]} | {head[3]} | {head[4]} |")
    lines = ["# Decisions", "", "One page a decision: why, what, and its price. Missing numbers were never given.", ""]
    return "\n".join([*lines, "| | Decision | Date | Status |", "|---|---|---|---|", *rows, ""])


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the index is not up to date")
    check = parser.parse_args().check
    target, content = FOLDER / "README.md", index()
    if not check:
        target.write_text(content, encoding="utf-8")
    elif not target.exists() or target.read_text(encoding="utf-8") != content:
        sys.exit("docs/adr/README.md is out of date; run `make docs`")


if __name__ == "__main__":
    main()
