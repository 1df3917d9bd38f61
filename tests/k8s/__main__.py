"""`python -m tests.k8s`: renders every overlay with every component, and checks what comes out; build/k8s.json."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from services.common.errors import StartupError
from tests.k8s import policies, rendering, schemas, tools
from tests.k8s.policies import Problem, Rendering
from tests.k8s.rendering import Combination

RESULT = BUILD / "k8s.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One overlay with components."""

    name: str
    manifests: int
    kinds: dict[str, int]
    problems: list[Problem]
    seconds: float


def main(
    only: Annotated[str, typer.Option(help="Check the combinations whose name contains this, and write nothing.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Render every overlay with every component by kubectl, and hold it against schemas and policies.

    Examples:  python -m tests.k8s  ·  python -m tests.k8s --only staging
    """
    console = Console(stderr=as_json)
    try:
        tools.set_up()
        chosen = [found for found in rendering.combinations() if only in found.name]
        if not chosen:
            raise StartupError(f"no combination contains {only!r}", remedy="Name an overlay or a component.")
        rows = [_row(found) for found in track(chosen, "rendering and checking", console=Console(stderr=True))]
    except StartupError as error:
        say(error, Console(stderr=True))
        sys.exit(2)
    result = {
        "kubectl": tools.version(),
        "kubernetes": schemas.VERSIONS,
        "policies": list(policies.POLICIES),
        "combinations": [asdict(row) for row in rows],
    }
    if not only:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _show(rows, console)
    sys.exit(1 if any(row.problems for row in rows) else 0)


def _row(combination: Combination) -> Row:
    started = time.monotonic()
    manifests = rendering.render(combination, tools.KUBECTL)
    problems = policies.problems(Rendering(combination.overlay, manifests))
    for manifest in manifests:
        resource = f"{manifest['kind']} {manifest['metadata']['name']}"
        for version in schemas.VERSIONS:
            problems += [Problem("schema", resource, words) for words in schemas.problems(manifest, version)]
    kinds = Counter(manifest["kind"] for manifest in manifests)
    return Row(combination.name, len(manifests), dict(kinds), problems, round(time.monotonic() - started, 2))


def _show(rows: list[Row], console: Console) -> None:
    table = Table("overlay and components", "resources", "problems", title="Kubernetes", title_justify="left")
    for row in rows:
        table.add_row(row.name, str(row.manifests), f"[red]{len(row.problems)}[/]" if row.problems else "none")
    console.print(table)
    for words, count in Counter(f"{p.policy}: {p.resource}: {p.words}" for row in rows for p in row.problems).items():
        console.print(f"[red]{words}[/] (in {count})", highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} renderings by {tools.version()}, schemas of {' and '.join(schemas.VERSIONS)}.")
    console.print(f"Written to {shown(RESULT)}.")


if __name__ == "__main__":
    typer.run(main)
