"""`sluice feedback sample`: questions of users, for a replay."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, say_warning, stdout
from sluice_cli.evaluation.lists import Source, served_answers, write_lines
from sluice_judgments.clicks import Served


async def sample(
    connection: Connection,
    source: Source,
    *,
    output: Path,
    limit: int,
    by: Literal["frequency", "distinct"],
    seed: int,
    as_json: bool,
) -> int:
    """Draw questions and write them; the exit code is 1 if there are none."""
    served = await served_answers(connection, source)
    texts = served.clear_texts
    counts = asked_counts(served.pages)
    known = {query: count for query, count in counts.items() if query in texts}
    drawn = draw(known, limit, by_frequency=by == "frequency", seed=seed)
    rows = ({"_id": query, "text": texts[query], "count": known[query]} for query in drawn)
    write_lines(output, (json.dumps(row) + "\n" for row in rows))
    found = {"questions": len(drawn), "distinct": len(known), "answers": sum(known.values()), "file": str(output)}
    if as_json:
        print_json(found)
    else:
        stdout.print(
            f"{len(drawn):,} of {len(known):,} distinct questions, from {sum(known.values()):,} answers, in "
            f"{plain(str(output))}: texts of users, to be kept as such"
        )
    without = served.without_query + sum(counts.values()) - sum(known.values())
    if without:
        say_warning(
            f"{without:,} answers have no text of a question: FEEDBACK_QUERIES=clear keeps it, where that is allowed"
        )
    return DONE if drawn else NEEDS_A_LOOK


def asked_counts(pages: Sequence[Served]) -> dict[str, int]:
    """Count how often each query was asked; later pages of an answer count as the same."""
    return dict(Counter(page.query for page in pages if page.first_position == 1))


def draw(counts: dict[str, int], limit: int, *, by_frequency: bool, seed: int) -> list[str]:
    """Draw distinct queries without replacement, all alike or by how often they were asked."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    if not by_frequency:
        return chance.sample(sorted(counts), min(limit, len(counts)))
    # Efraimidis and Spirakis 2006: the largest of u ** (1 / weight) are a weighted sample.
    keys = {query: chance.random() ** (1 / counts[query]) for query in sorted(counts)}
    return sorted(keys, key=lambda query: -keys[query])[:limit]
