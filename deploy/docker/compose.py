"""`python -m deploy.docker.compose`: write what the compose stack derives from the stages, to build/compose.

compose.yaml has the services with ports or data; stages.yaml, over it, has the others, the gateway's addresses, and the
health check of each.
scrape.yaml has what Prometheus scrapes, and rules/ its rules, with links to the runbook that begin as RUNBOOK_URL says.
"""

from __future__ import annotations

import os
from typing import Any

import yaml

from deploy.local.paths import BUILD, ROOT
from deploy.stages import STAGES

RUNBOOK_URL = "http://127.0.0.1:3000/d/sluice-runbook"
"""Beginning of the links to the runbook in the rules: the dashboard of the Grafana of this stack."""
RULES = ROOT / "deploy" / "prometheus" / "rules"
COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
FOLDER = BUILD / "compose"


def stages() -> dict[str, Any]:
    """Return the compose file of the stages."""
    written = yaml.safe_load(COMPOSE.read_text())
    addresses = {
        spec.address_variable: f"dns:///{spec.name}:{spec.grpc_port}" for spec in STAGES if spec.name != "gateway"
    }
    services: dict[str, dict[str, Any]] = {
        spec.name: {
            **written["x-stage"],
            "image": f"${{IMAGE_PREFIX:-sluice}}/{spec.name}:${{RELEASE:-0.1.0}}{_model(spec.name, spec.model)}",
            "environment": written["x-environment"],
        }
        for spec in STAGES
        if spec.name not in written["services"]
    }
    services.setdefault("gateway", {})["environment"] = addresses
    for spec in STAGES:
        services.setdefault(spec.name, {})["healthcheck"] = _health(spec.grpc_port)
    return {"services": services}


def _health(port: int) -> dict[str, Any]:
    """Return a health check by the image's own Python: Compose speaks no gRPC."""
    return {
        "test": ["CMD", "/opt/sluice/bin/python", "-m", "services.chassis.health", str(port)],
        "interval": "15s",
        "timeout": "10s",
        "start_period": "120s",
        "start_interval": "2s",
    }


def scrapes() -> dict[str, Any]:
    """Return the scrape configurations of the stages: the job is the stage's name, and DNS lists its replicas."""
    return {
        "scrape_configs": [
            {"job_name": spec.name, "dns_sd_configs": [{"names": [spec.name], "type": "A", "port": 9103}]}
            for spec in STAGES
        ]
    }


def rules(runbook_url: str) -> dict[str, str]:
    """Return the files of rules, with links to the runbook at another address."""
    return {file.name: file.read_text().replace(RUNBOOK_URL, runbook_url) for file in sorted(RULES.glob("*.yaml"))}


def _model(stage: str, model: str) -> str:
    return f"-${{{stage.upper()}_IMAGE_MODEL:-{model}}}" if model else ""


def main() -> None:
    """Write all files."""
    (FOLDER / "rules").mkdir(parents=True, exist_ok=True)
    for name, text in rules(os.environ.get("RUNBOOK_URL", RUNBOOK_URL)).items():
        (FOLDER / "rules" / name).write_text(text)
    for name, content in {"stages.yaml": stages(), "scrape.yaml": scrapes()}.items():
        (FOLDER / name).write_text(yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    main()
