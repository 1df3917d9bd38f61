"""Writes the table of `make bench-speed` and its kin into docs/performance.md: `python tools/speed_table.py`.

Where nothing was measured on this machine, the file stays as it is.
"""

from __future__ import annotations

import json
from typing import Any

from sections import ROOT, write

FILE = ROOT / "build" / "bench" / "speed.json"
TITLES = ("Row", "Ours", "Reference", "Ratio", "Spread", "Unit", "Bar", "Measured", "")


def table(rows: list[dict[str, Any]]) -> str:
    """One line a row of the file."""
    lines = ["", f"| {' | '.join(TITLES)} |", "|---|---:|---:|---:|---|---|---|---:|---|"]
    for row in rows:
        spread = " … ".join(_figure(bound) for bound in row.get("spread") or ())
        verdict = {True: "ok", False: "**missed**"}.get(row.get("ok"), "")
        figures = [_figure(row[column]) for column in ("ours", "reference", "ratio")]
        bar = [row.get("bar", ""), _figure(row.get("measured")), verdict]
        lines.append("| " + " | ".join([f"`{row['name']}`", *figures, spread, row["unit"], *bar]) + " |")
    return "\n".join([*lines, ""])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__" and FILE.exists():
    write("speed", table(json.loads(FILE.read_text())), file=ROOT / "docs" / "performance.md")
