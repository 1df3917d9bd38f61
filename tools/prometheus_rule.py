"""Wrap the rules of deploy/prometheus for the Prometheus operator: `python tools/prometheus_rule.py [--check]`.

kustomize can copy files but not put one inside another, so this is made here, and `make lint` sees that it is fresh.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules"
TARGET = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
_HEAD = "# Made by `make docs` from deploy/prometheus/rules; change it there.\n"


def wrapped() -> str:
    """Return all groups of all files in one resource."""
    groups = [
        group
        for file in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    ]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sluice", "labels": {"app.kubernetes.io/part-of": "sluice"}},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.dump(resource, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Dumper that repeats shared values, and writes expressions as blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Plain.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> int:
    """Write the resource or check it; return the exit status."""
    parser = argparse.ArgumentParser(prog="prometheus_rule", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it is not fresh")
    made = wrapped()
    if parser.parse_args().check:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == made:
            return 0
        print(f"{TARGET.relative_to(ROOT)} is not what deploy/prometheus/rules make; run `make docs`", file=sys.stderr)
        return 1
    TARGET.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
