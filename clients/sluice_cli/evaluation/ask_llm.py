"""`sluice judgments ask-llm`: passages of a collection, judged by a language model."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stdout,
)
from sluice_cli.chat import Budget, ChatModel
from sluice_cli.evaluation.configurations import read_configurations
from sluice_cli.evaluation.evaluate import read_list
from sluice_cli.evaluation.judge import Judged, Method, Task, Verdicts, judge, judged, made_by
from sluice_cli.evaluation.lists import agreement_view, pairs_view, write_lines
from sluice_cli.progress import counted
from sluice_client import AsyncClient
from sluice_judgments.agreement import agreement, pairs_of
from sluice_judgments.files import Unreadable, json_lines, read_queries
from sluice_judgments.judging import Passage, graded_by_wins
from sluice_judgments.judgments import Judgments

KEY_VARIABLE = "SLUICE_JUDGE_KEY"
_MOST_IDS = 100  # of one call


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    collection: str
    output: Path
    model: str
    url: str
    judgments: Path | None
    queries: Path | None
    configurations: Sequence[str]
    depth: int
    method: Method
    sample: int | None
    seed: int
    most_tokens: int
    passage_tokens: int
    concurrency: int
    by_document: bool
    rollout: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class Pool:
    """Passages to judge, by query."""

    texts: Mapping[str, str]
    """Of queries."""
    passages: Mapping[str, Sequence[Passage]]


async def ask_llm(connection: Connection, options: Options) -> int:
    """Judge, and compare with people; the exit code is 1 if not all was judged."""
    people = read_list(options.judgments, options.queries) if options.judgments is not None else None
    async with connection.client() as client:
        if people is not None:
            pool = await _listed(client, options, people)
        elif options.queries is not None:
            pool = await _found(client, connection, options, options.queries)
        else:
            pool = Pool({}, {})
    tasks = tasks_of(pool, options.method, options.sample, options.seed)
    if not tasks:
        raise Problem("there is nothing to judge", "check the queries, and --collection", exit_code=WRONG_COMMAND_LINE)
    remedy = f"check --llm-url, --model and {KEY_VARIABLE}; the same command goes on where this one stopped"
    key = os.environ.get(KEY_VARIABLE, "")
    model = ChatModel(options.model, options.url, key, Budget(options.most_tokens), remedy=remedy)
    file = options.output.with_name(f"{options.output.name}.verdicts")
    verdicts = Verdicts(file, made_by(options.model, options.method, options.passage_tokens))
    stopped, stop = "", threading.Event()
    try:
        with counted() as progress:
            missing = sum(task.key not in verdicts.rows for task in tasks)
            bar = progress.add_task("judging", total=missing)
            stopped = await asyncio.to_thread(
                judge,
                tasks,
                model,
                verdicts,
                stop,
                passage_tokens=options.passage_tokens,
                at_once=options.concurrency,
                on_verdict=lambda: progress.update(bar, advance=1),
            )
    finally:
        # After an interrupt, too: the answers that are under way are kept, and nothing more is asked.
        stop.set()
    verdicts.close()
    return _report(judged(verdicts, pool.texts), people, pool, model, stopped, options)


def tasks_of(pool: Pool, method: Method, sample: int | None, seed: int) -> list[Task]:
    """List what is to be judged: every passage or every pair of a query, or a sample of them all."""
    size = 1 if method == "pointwise" else 2
    tasks = [
        Task(query, pool.texts[query], passages)
        for query, found in pool.passages.items()
        for passages in combinations(found, size)
    ]
    if sample is not None and sample < len(tasks):
        tasks = random.Random(seed).sample(tasks, sample)  # noqa: S311  # no secret
    return tasks


async def _found(client: AsyncClient, connection: Connection, options: Options, queries: Path) -> Pool:
    """Pool the first results of every configuration."""
    try:
        texts = read_queries(queries)
    except Unreadable as error:
        raise Problem(str(error), 'give {"_id", "text"} a line', exit_code=WRONG_COMMAND_LINE) from None
    configurations = await read_configurations(options.configurations, connection, options.rollout, least=1)
    pooled: dict[str, dict[str, Passage]] = {}
    with counted() as progress:
        bar = progress.add_task("searching", total=len(texts))
        for query, text in texts.items():
            for configuration in configurations:
                answer = await client.search(
                    text,
                    limit=options.depth,
                    collection=options.collection,
                    features=configuration.features,
                    group_by_document=options.by_document,
                )
                for result in answer.results:
                    one = result.passage
                    name = one.document_id if options.by_document else one.id
                    pooled.setdefault(query, {}).setdefault(name, Passage(name, one.title, one.text))
            progress.update(bar, advance=1)
    return Pool(texts, {query: list(found.values()) for query, found in pooled.items()})


async def _listed(client: AsyncClient, options: Options, people: Judgments) -> Pool:
    """Read the documents of a list."""
    names = list(dict.fromkeys(document for query, document, _ in people if query in people.texts))
    documents: dict[str, Passage] = {}
    for start in range(0, len(names), _MOST_IDS):
        read = await client.get_documents(names[start : start + _MOST_IDS], collection=options.collection)
        for stored in read.documents:
            one = stored.document
            documents[one.id] = Passage(one.id, one.title, one.text)
    missing = len(names) - len(documents)
    if missing:
        say_warning(f"{missing:,} of {len(names):,} documents of the list are not in the collection, and are left out")
    return Pool(
        people.texts,
        {
            query: [documents[name] for name in grades if name in documents]
            for query, grades in people.grades.items()
            if query in people.texts
        },
    )


def _report(
    found: Judged, people: Judgments | None, pool: Pool, model: ChatModel, stopped: str, options: Options
) -> int:
    pairwise = options.method == "pairwise"
    made = graded_by_wins(found.preferences, pool.texts) if pairwise else found.grades
    write_lines(options.output, json_lines(made))
    said: dict[str, Any] = {
        "judgments": len(made),
        "verdicts": len(found.preferences) if pairwise else len(made),
        "contrary": found.contrary,
        "useless": found.useless,
        "tokens": model.budget.tokens,
        "stopped": stopped,
        "file": str(options.output),
    }
    of_pairs = pairs_of(people, found.preferences) if people is not None and pairwise else None
    of_grades = agreement(people, made) if people is not None and not pairwise else None
    if options.as_json:
        compared = of_pairs or of_grades
        print_json({**said, "agreement": asdict(compared) if compared else None})
    else:
        contrary = f", {found.contrary:,} pairs contrary in the other order" if pairwise else ""
        stdout.print(
            f"{said['verdicts']:,} verdicts{contrary}, {found.useless:,} useless replies; {model.budget}; "
            f"{len(made):,} judgments in {plain(str(options.output))}"
        )
        if of_pairs is not None:
            stdout.print(pairs_view(of_pairs))
        if of_grades is not None:
            stdout.print(agreement_view(of_grades))
    if stopped:
        say_warning(f"{stopped}; the same command with a larger --max-tokens goes on")
    if found.useless:
        say_warning(f"{found.useless:,} replies were no verdict: is the model one for {options.method} judgments?")
    return NEEDS_A_LOOK if stopped or found.useless else DONE
