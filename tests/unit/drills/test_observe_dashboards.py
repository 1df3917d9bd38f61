"""The queries that observe-check asks Prometheus on behalf of Grafana."""

from __future__ import annotations

import json
from pathlib import Path

from drills.observe.dashboards import PanelQuery, queries


def test_every_query_is_found_and_has_no_variables_left(tmp_path: Path) -> None:
    rate = 'sum(rate(x_total{namespace=~"$namespace", job=~"${job:regex}"}[$__rate_interval]))'
    board = {
        "panels": [
            {"title": "one", "targets": [{"expr": rate}, {"refId": "B"}]},
            {"type": "row", "panels": [{"title": "in a row", "targets": [{"expr": "up"}]}]},
        ]
    }
    (tmp_path / "board.json").write_text(json.dumps(board))
    assert queries(tmp_path) == [
        PanelQuery("board", "one", 'sum(rate(x_total{namespace=~".*", job=~".*"}[10m]))'),
        PanelQuery("board", "in a row", "up"),
    ]
