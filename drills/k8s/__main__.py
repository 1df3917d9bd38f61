"""`python -m drills.k8s`: render and check every overlay with every component; build/k8s.json."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from drills.k8s import policies, rendering, schemas, tools
from drills.k8s.broken import BROKEN, Broken
from drills.k8s.manifests import Rendering
from drills.k8s.policies import Problem
from drills.k8s.rendering import Combination
from services.chassis.errors import StartupError

RESULT = BUILD / "k8s.json"


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one overlay with components."""

    name: str
    manifests: int
    kinds: dict[str, int]
    problems: list[Problem]
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Result of one manifest that was broken on purpose."""

    name: str
    refused_by: str
    """Policy that has to refuse it, or `schema`."""
    refused: bool
    words: str
    """Message of the refusal."""


def main(
    only: Annotated[str, typer.Option(help="Check the combinations whose name contains this, and write nothing.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Render every overlay with every component by kubectl, and check schemas and policies.

    Examples:  python -m drills.k8s  ·  python -m drills.k8s --only staging
    """
    console = Console(stderr=as_json)
    try:
        tools.set_up()
        chosen = [found for found in rendering.combinations() if only in found.name]
        if not chosen:
            raise StartupError(f"no combination contains {only!r}", remedy="Name an overlay or a component.")
        rows = [_row(found) for found in track(chosen, "rendering and checking", console=Console(stderr=True))]
        refusals = [_refusal(broken) for broken in track(BROKEN, "breaking", console=Console(stderr=True))]
    except StartupError as error:
        say(error, Console(stderr=True))
        sys.exit(2)
    result = {
        "kubectl": tools.version(),
        "kubernetes": schemas.VERSIONS,
        "policies": list(policies.POLICIES),
        "combinations": [asdict(row) for row in rows],
        "broken_on_purpose": [asdict(refusal) for refusal in refusals],
    }
    if not only:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _show(rows, refusals, console)
    sys.exit(1 if any(row.problems for row in rows) or not all(refusal.refused for refusal in refusals) else 0)


def _row(combination: Combination) -> Row:
    started = time.monotonic()
    found = _rendered(combination)
    problems = _problems(found)
    kinds = Counter(manifest["kind"] for manifest in found.manifests)
    return Row(combination.name, len(found.manifests), dict(kinds), problems, round(time.monotonic() - started, 2))


def _refusal(broken: Broken) -> Refusal:
    said = [
        problem
        for problem in _problems(broken.applied_to(_rendered(broken.combination)))
        if problem.policy == broken.refused_by and problem.resource == f"{broken.kind} {broken.resource}"
    ]
    return Refusal(broken.name, broken.refused_by, bool(said), said[0].words if said else "nothing")


@cache
def _rendered(combination: Combination) -> Rendering:
    return Rendering(combination.overlay, rendering.render(combination, tools.KUBECTL))


def _problems(found: Rendering) -> list[Problem]:
    """Return the problems by schemas; if there are none, by policies, which expect valid manifests."""
    problems = [
        Problem("schema", f"{manifest['kind']} {manifest['metadata']['name']}", words)
        for manifest in found.manifests
        for version in schemas.VERSIONS
        for words in schemas.problems(manifest, version)
    ]
    return problems or policies.problems(found)


def _show(rows: list[Row], refusals: list[Refusal], console: Console) -> None:
    table = Table("overlay and components", "resources", "problems", title="Kubernetes", title_justify="left")
    for row in rows:
        table.add_row(row.name, str(row.manifests), f"[red]{len(row.problems)}[/]" if row.problems else "none")
    console.print(table)
    for words, count in Counter(f"{p.policy}: {p.resource}: {p.words}" for row in rows for p in row.problems).items():
        console.print(f"[red]{words}[/] (in {count})", highlight=False, soft_wrap=True)
    table = Table("broken on purpose", "refused by", "in these words", title_justify="left")
    for refusal in refusals:
        by = refusal.refused_by if refusal.refused else "[red]nobody[/]"
        table.add_row(refusal.name, by, escape(refusal.words[:100]))
    console.print(table)
    console.print(f"{len(rows)} renderings by {tools.version()}, schemas of {' and '.join(schemas.VERSIONS)}.")
    console.print(f"Written to {shown(RESULT)}.")


if __name__ == "__main__":
    typer.run(main)
