"""The queries of the dashboards in deploy/grafana, ready for Prometheus itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.paths import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
# What Grafana puts in by itself, as long as all of a check takes.
_WINDOWS = {"__rate_interval": "10m", "__interval": "15s", "__range": "10m"}


@dataclass(frozen=True)
class PanelQuery:
    """One query of one panel."""

    dashboard: str
    panel: str
    expression: str


def queries(folder: Path = FOLDER) -> list[PanelQuery]:
    """All queries to Prometheus, with every variable replaced: windows by short ones, others by all there is."""
    return [
        PanelQuery(path.stem, panel.get("title", ""), _filled(target["expr"]))
        for path in sorted(folder.glob("*.json"))
        for panel in _panels(json.loads(path.read_text(encoding="utf-8")))
        for target in panel.get("targets", ())
        if target.get("expr")
    ]


def _panels(holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Panels, those inside collapsed rows too."""
    for panel in holder.get("panels", ()):
        yield panel
        yield from _panels(panel)


def _filled(expression: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found["braced"] or found["plain"]
        return _WINDOWS.get(name, ".*")

    return re.sub(r"\$(?:\{(?P<braced>\w+)(?::\w+)?\}|(?P<plain>\w+))", value, expression)
