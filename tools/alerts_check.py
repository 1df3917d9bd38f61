"""Check rules, their tests, dashboards and runbook with promtool: `python tools/alerts_check.py`.

The rules, their tests, and the syntax of every query in dashboards and runbook, all by Prometheus' own promtool.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import fetch_prometheus

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml"))
TESTS = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = ROOT / "docs" / "runbook.md"


def main() -> None:
    """Exit with promtool's message if a check fails."""
    promtool = str(fetch_prometheus.folder() / "promtool")
    _run(promtool, "check", "rules", *map(str, RULES))
    queries = [query for file in DASHBOARDS for query in queries_of_dashboard(file)] + queries_of_runbook(RUNBOOK)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "queries.yaml"
        # promtool parses what is a rule, so each query is made one.
        rules = [{"record": f"query{index}", "expr": query} for index, query in enumerate(queries)]
        file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, width=1000), encoding="utf-8")
        _run(promtool, "check", "rules", str(file))
    _run(promtool, "test", "rules", *map(str, TESTS))
    print(f"{len(RULES)} files of rules and {len(queries)} queries are well formed, {len(TESTS)} files of tests pass")


def queries_of_dashboard(file: Path) -> list[str]:
    """Return the queries of all panels, with any value for Grafana's variables."""
    dashboard = json.loads(file.read_text(encoding="utf-8"))
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*") for target in targets]


def queries_of_runbook(file: Path) -> list[str]:
    """Return the PromQL queries of the runbook."""
    return re.findall(r"```promql\n(.*?)\n```", file.read_text(encoding="utf-8"), re.DOTALL)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
