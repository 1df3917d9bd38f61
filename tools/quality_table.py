"""Writes the table of `make bench-quality` into docs/quality.md: `python tools/quality_table.py`, or `--check`.

Where nothing was measured on this machine, the page stays as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from sections import ROOT, write

FILE = ROOT / "build" / "bench" / "quality.json"
MEASURES = ("ndcg@10", "recall@100", "mrr@10", "all_gold@10")


def table(rows: list[dict[str, Any]]) -> str:
    """One row a collection and configuration, of the test splits."""
    titles = ["collection", "config", *MEASURES, "nDCG@10 against dense", "ms a query"]
    lines = ["", f"| {' | '.join(titles)} |", "|---|---|" + "---:|" * (len(titles) - 2)]
    before = ""
    for row in rows:
        if row["split"] != "test":
            continue
        name = "" if row["dataset"] == before else f"{row['dataset']} ({row['queries']} queries)"
        measures = (f"{row[measure]:.3f}" for measure in MEASURES)
        cells = [name, row["config"], *measures, _interval(row["vs_dense"]), f"{row['ms_per_query']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
        before = row["dataset"]
    return "\n".join([*lines, ""])


def _interval(found: Mapping[str, float] | None) -> str:
    return f"{found['difference']:+.3f} ({found['lower']:+.3f} … {found['upper']:+.3f})" if found else ""


def main() -> None:
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not up to date")
    arguments = parser.parse_args()
    if FILE.exists():
        write("quality", table(json.loads(FILE.read_text())), file=ROOT / "docs" / "quality.md", check=arguments.check)


if __name__ == "__main__":
    main()
