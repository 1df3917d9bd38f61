"""Write the stages into compose.yaml and prometheus.yml: `python tools/stage_lists.py`, or `--check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.stages import STAGES, StageSpec
from tools.sections import ROOT, write

COMPOSE = ROOT / "deploy" / "docker" / "compose.yaml"
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
# Services that are written by hand, because they have ports or keep data.
_BY_HAND = {"gateway", "retriever", "rollout"}


def addresses() -> str:
    """Return the addresses of all stages behind the gateway."""
    return "\n".join(
        f"  {spec.address_variable}: dns:///{spec.name}:{spec.grpc_port}" for spec in STAGES if spec.name != "gateway"
    )


def services() -> str:
    """Return the services of the stages that differ in their image alone."""
    return "\n\n".join(_service(spec) for spec in STAGES if spec.name not in _BY_HAND)


def _service(spec: StageSpec) -> str:
    model = f"-${{{spec.name.upper()}_IMAGE_MODEL:-{spec.model}}}" if spec.model else ""
    return (
        f"  {spec.name}:\n    <<: *stage\n"
        f"    image: ${{IMAGE_PREFIX:-sluice}}/{spec.name}:${{RELEASE:-0.1.0}}{model}\n    environment: *environment"
    )


def targets() -> str:
    """Return the scrape configurations of all stages."""
    return "\n".join(
        f"  - job_name: {spec.name}\n    dns_sd_configs: [{{names: [{spec.name}], type: A, port: 9103}}]"
        for spec in STAGES
    )


def main() -> None:
    """Write the lists, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a list is out of date")
    check = parser.parse_args().check
    write("addresses", addresses(), file=COMPOSE, check=check)
    write("services", services(), file=COMPOSE, check=check)
    write("targets", targets(), file=PROMETHEUS, check=check)


if __name__ == "__main__":
    main()
