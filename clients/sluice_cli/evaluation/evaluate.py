"""`sluice evaluate`: configurations compared by judgments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
)
from sluice_cli.evaluation.asking import ANSWERED, Asked, Asking, Side, ask, runs_of, side_of
from sluice_cli.evaluation.configurations import Configuration, read_configurations
from sluice_cli.evaluation.evidence import interval_words, write_evidence
from sluice_cli.evaluation.measures import NDCG
from sluice_cli.evaluation.quality import Quality, answerable, quality_of
from sluice_cli.evaluation.views import quality_view
from sluice_cli.load import closed
from sluice_cli.progress import counted
from sluice_client import LadderStep
from sluice_judgments.agreement import orders_alike
from sluice_judgments.files import Unreadable, read_judgments, read_queries
from sluice_judgments.judgments import Judgments

_QUERIES_OF_BEIR = "queries.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    collection: str
    judgments: Path
    queries: Path | None
    second_judgments: Path | None
    configurations: Sequence[str]
    rollout: str
    limit: int | None
    relevant: int
    concurrency: int
    show: int
    by_document: bool
    output: Path | None
    plot: Path | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of an evaluation."""

    collection: str
    sides: Sequence[Side]
    quality: Quality
    left_out: int
    """Queries with judgments that were not asked: without a text, or without a relevant document."""
    verdict: str
    """better or worse, of the last configuration by nDCG@10; open where the interval holds 0."""
    kendalls_tau: float | None
    """Agreement of the order of the configurations by nDCG@10 with that by the second list; None without one."""


async def evaluate(connection: Connection, options: Options) -> int:
    """Ask and show; the exit code is 1 if a search failed, or a stage of one."""
    judgments, second = read_list(options.judgments, options.queries), None
    if options.second_judgments is not None:
        second = read_list(options.second_judgments, None)
    configurations = await read_configurations(options.configurations, connection, options.rollout)
    asked_for = {query: judgments.texts[query] for query in judgments.grades if query in judgments.texts}
    known = answerable(judgments, options.relevant)
    texts = dict([(query, text) for query, text in asked_for.items() if query in known][: options.limit])
    if not texts:
        raise Problem(
            f"{options.judgments} has no query with a text and a document of grade {options.relevant} or more",
            f"give the texts with --queries, as BEIR's {_QUERIES_OF_BEIR}; a lower grade with --relevant",
            exit_code=WRONG_COMMAND_LINE,
        )
    asked = await _ask_all(connection, options, configurations, texts)
    names = [one.name for one in configurations]
    runs = runs_of(asked)
    quality = quality_of(judgments, runs, names, relevant=options.relevant, show=options.show)
    tau = None
    if second is not None:
        tau = _tau(quality, quality_of(second, runs, names, relevant=options.relevant, show=0))
    found = Evaluation(
        options.collection,
        [side_of(one, asked) for one in configurations],
        quality,
        len(judgments.grades) - len(texts),
        verdict_of(quality, names[-1]),
        tau,
    )
    return _report(found, options, texts)


def read_list(path: Path, queries: Path | None) -> Judgments:
    """Read judgments with the texts of their queries, else those of queries.jsonl beside them. Raises Problem."""
    try:
        judgments = read_judgments(path)
        beside = path.parent / _QUERIES_OF_BEIR
        file = queries or (beside if beside.is_file() and not judgments.texts else None)
        return Judgments(judgments.grades, {**judgments.texts, **(read_queries(file) if file else {})})
    except Unreadable as error:
        raise Problem(
            str(error), "docs/evaluation.md shows the forms that are read", exit_code=WRONG_COMMAND_LINE
        ) from None


async def _ask_all(
    connection: Connection, options: Options, configurations: Sequence[Configuration], texts: Mapping[str, str]
) -> list[Asked]:
    asking = Asking(options.collection, options.by_document)
    asked: list[Asked] = []
    left = iter(enumerate(texts.items()))
    with counted() as progress:
        bar = progress.add_task("asking", total=len(texts))
        async with connection.client() as client:

            async def ask_one() -> None:
                place, (query, text) = next(left)
                # Each configuration comes first as often: the first one finds no vector of the question in a cache.
                turned = place % len(configurations)
                order = (*configurations[turned:], *configurations[:turned])
                asked.extend([await ask(client, asking, one, query, text) for one in order])
                progress.update(bar, advance=1)

            try:
                await closed(ask_one, requests=len(texts), concurrency=options.concurrency)
            except ExceptionGroup as refused:
                raise refused.exceptions[0] from None
    return asked


def _tau(one: Quality, other: Quality) -> float | None:
    figures = [
        {graded.configuration: graded.measures[NDCG].value for graded in quality.configurations if graded.measures}
        for quality in (one, other)
    ]
    return orders_alike(*figures)


def _report(found: Evaluation, options: Options, texts: Mapping[str, str]) -> int:
    summary = summary_of(found)
    result = asdict(found)
    if options.as_json:
        moved = [{**asdict(one), "query": texts[one.query_id]} for one in found.quality.moved]
        print_json({**result, "summary": summary, "quality": {**result["quality"], "moved": moved}})
    else:
        stdout.print(quality_view(found.quality, found.sides, texts))
        stdout.print(plain(summary), soft_wrap=True)
        if found.kendalls_tau is not None:
            stdout.print(f"Kendall's tau of the configurations by the second list: {found.kendalls_tau:+.2f}")
    if options.plot is not None:
        from sluice_cli.evaluation.plots import draw_quality  # noqa: PLC0415  # an extra

        draw_quality(found.quality, found.sides, options.plot)
        stderr.print(f"{plain(str(options.plot))} written", soft_wrap=True)
    if options.output is not None:
        write_evidence(options.output, LadderStep.OFFLINE, summary, result)
    return warned(found.sides, found.quality, by_document=options.by_document)


def warned(sides: Sequence[Side], quality: Quality | None, *, by_document: bool) -> int:
    """Say what a reader of the figures must know; the exit code is 1 if there is such a thing."""
    code = DONE
    for side in sides:
        if side.failed:
            ends = ", ".join(f"{count:,} {name}" for name, count in side.codes.items() if name != ANSWERED)
            say_warning(
                f"{side.name}: {side.failed:,} of {side.questions:,} questions failed, and are left out for all: {ends}"
            )
        if side.degraded:
            named = ", ".join(f"{count:,} {name}" for name, count in side.degraded_by.items())
            say_warning(f"{side.name}: {side.degraded:,} answers are not by all that was asked for: {named}")
        if side.failed or side.degraded:
            code = NEEDS_A_LOOK
    if quality is not None and all(one.unjudged == 1.0 for one in quality.configurations):
        say_warning(
            "not one result is judged: are the judgments' ids those of this collection's "
            + ("documents?" if by_document else "passages? With judgments of documents, give --by-document")
        )
        code = NEEDS_A_LOOK
    return code


def verdict_of(quality: Quality | None, configuration: str) -> str:
    """Say if a configuration is better or worse than the first one by nDCG@10; open where that is not known."""
    for one in quality.differences if quality is not None else ():
        if (one.configuration, one.measure) == (configuration, NDCG):
            return "better" if one.difference.low > 0 else "worse" if one.difference.high < 0 else "open"
    return "open"


def summary_of(found: Evaluation) -> str:
    """Say in one line how the last configuration compares with the first."""
    first, last = found.sides[0], found.sides[-1]
    main = next(
        (one for one in found.quality.differences if (one.configuration, one.measure) == (last.name, NDCG)), None
    )
    if main is None:
        return f"{last.name} against {first.name}: no question was answered by all configurations"
    times = "" if first.p50_ms is None or last.p50_ms is None else f"; p50 {last.p50_ms:.0f} ms, not {first.p50_ms:.0f}"
    return (
        f"{last.name} against {first.name} over {found.quality.questions:,} questions: nDCG@10 "
        f"{interval_words(main.difference, signed=True)}, better in {main.wins:,}, worse in {main.losses:,}{times}"
    )
