"""`python -m deploy.grafana`: write the dashboards of Grafana; `--check` fails if they are out of date."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import rollouts, runbook, stages

FOLDER = Path(__file__).resolve().parent / "dashboards"
SOURCES = {"sluice.json": stages, "rollouts.json": rollouts, "runbook.json": runbook}


def rendered(name: str) -> str:
    """Return a dashboard as JSON."""
    return json.dumps(SOURCES[name].built().build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write the dashboards, or check them."""
    parser = argparse.ArgumentParser(prog="deploy.grafana", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a dashboard is not up to date")
    check = parser.parse_args().check
    outdated = [name for name in SOURCES if not _current(name)]
    if check and outdated:
        sys.exit(f"dashboards are out of date, run `make docs`: {', '.join(outdated)}")
    for name in outdated:
        (FOLDER / name).write_text(rendered(name))


def _current(name: str) -> bool:
    file = FOLDER / name
    return file.exists() and file.read_text() == rendered(name)


if __name__ == "__main__":
    main()
