"""Write who may call which RPC into docs/access.md: `python -m drills.access.table`, or `--check`."""

from __future__ import annotations

import argparse

from services.chassis.access.callers import Callers
from services.chassis.access.policy import DEFAULT_POLICY, Policy
from services.chassis.access.rpcs import GROUPS, RPCS, Rpc
from tools.sections import ROOT, write

ROLES = ("reader", "writer", "operator", "auditor", "gateway", "stage")


def table() -> str:
    """Return a row for each group of each service, with the roles that the default policies permit it."""
    callers = Callers()
    policy = Policy.read(DEFAULT_POLICY.read_bytes(), callers)

    def roles(rpc: Rpc) -> str:
        collection = "papers" if rpc.collection_field else None
        may = [
            role for role in ROLES if policy.decide(callers.of_claims("jwt:a", [role], "", {}), rpc, collection).allowed
        ]
        return ", ".join(may) or "nobody"

    lines = ["| Group | Service | RPCs | Roles |", "|---|---|---|---|"]
    for group in GROUPS:
        of_group = [rpc for rpc in RPCS.values() if rpc.group == group]
        for service in dict.fromkeys(rpc.service for rpc in of_group):
            of_service = [rpc for rpc in of_group if rpc.service == service]
            names = ", ".join(rpc.action.partition("/")[2] for rpc in of_service)
            may = ", ".join(dict.fromkeys(roles(rpc) for rpc in of_service))
            lines.append(f"| `{group}` | `{service.rpartition('.')[2]}` | {names} | {may} |")
    return "\n".join(lines)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the table is not up to date")
    write("rpcs", table(), file=ROOT / "docs" / "access.md", check=parser.parse_args().check)


if __name__ == "__main__":
    main()
