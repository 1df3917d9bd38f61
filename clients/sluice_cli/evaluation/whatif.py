"""`sluice whatif`: recorded questions, asked again with other configurations, before a user sees them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from sluice_cli.calls import (
    INTERRUPTED,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
    table,
)
from sluice_cli.evaluation.asking import ANSWERED, DEPTH, Asked, Asking, Side, ask, runs_of, side_of
from sluice_cli.evaluation.configurations import Configuration, read_configurations
from sluice_cli.evaluation.evaluate import read_list, verdict_of, warned
from sluice_cli.evaluation.evidence import interval_words, write_evidence
from sluice_cli.evaluation.measures import NDCG, Run
from sluice_cli.evaluation.pacing import Pace
from sluice_cli.evaluation.quality import Quality, answerable, quality_of
from sluice_cli.evaluation.views import quality_view, shortened, work_view
from sluice_cli.progress import counted
from sluice_client import AsyncClient, LadderStep, SluiceError
from sluice_judgments.files import Unreadable, read_queries
from sluice_judgments.judgments import Judgments
from sluice_statistics.intervals import Estimate, bootstrap
from sluice_statistics.rankings import overlap, rank_biased_overlap

_ATTEMPTS = 3
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    collection: str
    sample: Path
    configurations: Sequence[str]
    judgments: Path | None
    relevant: int
    rollout: str
    rate: float
    concurrency: int
    limit: int | None
    show: int
    by_document: bool
    output: Path | None
    plot: Path | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """Answers of a configuration beside those of the first."""

    configuration: str
    overlap: Estimate
    """Mean share of the first ten results that both have."""
    rank_biased_overlap: Estimate
    """Mean agreement that counts more at the top."""
    unchanged: float
    """Share of questions with the same results in the same order."""
    milliseconds: Estimate
    """Median of the time that a question took longer."""


@dataclass(frozen=True, slots=True)
class ChangedQuestion:
    """A question whose results changed much."""

    query_id: str
    configuration: str
    overlap: float
    rank_biased_overlap: float


@dataclass(frozen=True, slots=True)
class Paced:
    """Course of the replay."""

    most_a_second: float
    """The rate that was allowed."""
    lowest_a_second: float
    backed_off: int
    """Times that the rate was halved."""
    refused: int
    """Requests that the gateway had no room for; they were sent again."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Results of a replay."""

    collection: str
    questions: int
    """Those that all configurations answered."""
    sides: Sequence[Side]
    changed: Sequence[Changed]
    most_changed: Sequence[ChangedQuestion]
    quality: Quality | None
    """By judgments; None where no question has any."""
    pace: Paced
    stopped: str
    """Reason for an early end; empty where all was asked."""
    verdict: str
    """better or worse, by nDCG@10; open without judgments, or where the interval holds 0."""


@dataclass(slots=True)
class _Course:
    """A replay under way."""

    pace: Pace
    stop: asyncio.Event
    asked: list[Asked] = field(default_factory=list)
    refused: int = 0
    reason: str = ""

    def end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.stop.set()


async def whatif(connection: Connection, options: Options) -> int:
    """Replay and show; the exit code is 1 if the replay ended early, or a search failed."""
    try:
        texts = dict([*read_queries(options.sample).items()][: options.limit])
    except Unreadable as error:
        raise Problem(str(error), "`sluice feedback sample` writes such a file", exit_code=WRONG_COMMAND_LINE) from None
    judgments = read_list(options.judgments, None) if options.judgments is not None else None
    configurations = await read_configurations(options.configurations, connection, options.rollout)
    async with _stoppable() as stop:
        course = _Course(Pace(options.rate), stop)
        await _replay(connection, options, configurations, texts, course)
    return _report(_found(options, configurations, judgments, course), options, texts)


@asynccontextmanager
async def _stoppable() -> AsyncIterator[asyncio.Event]:
    """Let an interrupt end the replay, and not the command."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop.set)
    except (ValueError, RuntimeError, NotImplementedError):  # not the main thread
        yield stop
        return
    try:
        yield stop
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _replay(
    connection: Connection,
    options: Options,
    configurations: Sequence[Configuration],
    texts: Mapping[str, str],
    course: _Course,
) -> None:
    left = iter(enumerate(texts.items()))
    asking = Asking(options.collection, options.by_document)
    with counted() as progress:
        bar = progress.add_task("replaying", total=len(texts))
        async with connection.client(waits=False) as client:

            async def replayer() -> None:
                for place, (query, text) in left:
                    turned = place % len(configurations)
                    for configuration in (*configurations[turned:], *configurations[:turned]):
                        if course.stop.is_set():
                            return
                        await _ask(client, asking, configuration, query, text, course)
                    progress.update(bar, advance=1)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(options.concurrency):
                        group.create_task(replayer())
            except ExceptionGroup as refused:
                raise refused.exceptions[0] from None
    if course.stop.is_set():
        course.end(_INTERRUPTED)


async def _ask(
    client: AsyncClient, asking: Asking, configuration: Configuration, query: str, text: str, course: _Course
) -> None:
    """Ask at the pace of the replay; a question that the gateway has no room for is asked again."""
    for attempt in range(1, _ATTEMPTS + 1):
        pause = course.pace.begin(time.monotonic()) - time.monotonic()
        try:
            await asyncio.wait_for(course.stop.wait(), max(0.0, pause))
        except TimeoutError:
            pass
        else:
            return
        try:
            one = await ask(client, asking, configuration, query, text)
        except SluiceError as error:
            if not course.asked:
                raise
            course.end(error.message)
            return
        if one.code == ANSWERED:
            course.pace.answered(configuration.name, one.seconds)
        elif one.busy:
            course.refused += 1
            course.pace.refused(time.monotonic(), one.retry_after)
        if course.pace.exhausted:
            course.end("the gateway has no spare capacity")
        if not one.busy or attempt == _ATTEMPTS:
            course.asked.append(one)
            return


def _found(
    options: Options, configurations: Sequence[Configuration], judgments: Judgments | None, course: _Course
) -> Replay:
    names = [one.name for one in configurations]
    runs = runs_of(course.asked) if course.asked else {}
    runs = {name: runs.get(name, {}) for name in names}
    seconds = {(one.configuration, one.query): one.seconds for one in course.asked if one.code == ANSWERED}
    first = names[0]
    changed, questions = [], []
    for name in names[1:] if runs[first] else []:
        own = _compared(name, runs[first], runs[name])
        questions += own
        longer = [1000 * (seconds[name, query] - seconds[first, query]) for query in runs[first]]
        changed.append(
            Changed(
                name,
                bootstrap([one.overlap for one in own], np.mean),
                bootstrap([one.rank_biased_overlap for one in own], np.mean),
                fmean(tuple(runs[first][query]) == tuple(runs[name][query]) for query in runs[first]),
                bootstrap(longer),
            )
        )
    quality = None
    if judgments is not None and answerable(judgments, options.relevant) & set(runs[first]):
        quality = quality_of(judgments, runs, names, relevant=options.relevant, show=options.show)
    pace = course.pace
    return Replay(
        collection=options.collection,
        questions=len(runs[first]),
        sides=[side_of(one, course.asked) for one in configurations],
        changed=changed,
        most_changed=sorted(questions, key=lambda one: (one.rank_biased_overlap, one.query_id))[: options.show],
        quality=quality,
        pace=Paced(pace.most, pace.lowest, pace.backed_off, course.refused),
        stopped=course.reason,
        verdict=verdict_of(quality, names[-1]),
    )


def _compared(name: str, first: Run, own: Run) -> list[ChangedQuestion]:
    return [
        ChangedQuestion(
            query, name, overlap(first[query], own[query], DEPTH), rank_biased_overlap(first[query], own[query])
        )
        for query in first
    ]


def _report(found: Replay, options: Options, texts: Mapping[str, str]) -> int:
    summary = _summary(found)
    if options.as_json:
        named = [{**asdict(one), "query": texts[one.query_id]} for one in found.most_changed]
        print_json({**asdict(found), "summary": summary, "most_changed": named})
    else:
        stdout.print(_view(found, texts))
        stdout.print(plain(summary), soft_wrap=True)
    if options.plot is not None:
        from sluice_cli.evaluation.plots import draw_replay  # noqa: PLC0415  # an extra

        draw_replay(found.sides, found.changed, options.plot)
        stderr.print(f"{plain(str(options.plot))} written", soft_wrap=True)
    if options.output is not None:
        write_evidence(options.output, LadderStep.REPLAY, summary, asdict(found))
    code = warned(found.sides, found.quality, by_document=options.by_document)
    if found.stopped:
        say_warning(f"ended early: {found.stopped}; the figures are of {found.questions:,} questions")
        return INTERRUPTED if found.stopped == _INTERRUPTED else NEEDS_A_LOOK
    return code


def _summary(found: Replay) -> str:
    if not found.changed:
        return "no question was answered by all configurations"
    last, side = found.changed[-1], found.sides[-1]
    quality = ""
    if found.quality is not None:
        main = [one for one in found.quality.differences if (one.configuration, one.measure) == (side.name, NDCG)]
        quality = "".join(f", nDCG@10 {interval_words(one.difference, signed=True)}" for one in main)
    return (
        f"{last.configuration} against {found.sides[0].name} over {found.questions:,} recorded questions: "
        f"{last.overlap.value:.0%} of the first results are the same, rank-biased overlap "
        f"{last.rank_biased_overlap.value:.2f}, {last.milliseconds.value:+.0f} ms at the median{quality}"
    ).replace("%", " %")


def _view(found: Replay, texts: Mapping[str, str]) -> RenderableType:
    blocks: list[RenderableType] = [work_view(found.sides), Text()]
    columns = ("overlap@10", "rank-biased overlap", "unchanged", "ms longer (median)")
    shown = table("", *columns, title=f"Against {plain(found.sides[0].name)} (95 %)", right=frozenset(columns))
    for one in found.changed:
        words = (interval_words(one.overlap), interval_words(one.rank_biased_overlap), f"{one.unchanged * 100:.0f} %")
        shown.add_row(one.configuration, *words, interval_words(one.milliseconds, signed=True, digits=1))
    blocks.append(shown)
    if found.most_changed:
        questions = table("overlap@10", "", "question", title="\nQuestions that changed most")
        for each in found.most_changed:
            text = shortened(texts.get(each.query_id, each.query_id))
            questions.add_row(f"{each.overlap * 100:.0f} %", each.configuration, text)
        blocks.append(questions)
    if found.quality is not None:
        title = f"\nBy judgments of {found.quality.questions:,} of the questions"
        blocks += [Text(title), quality_view(found.quality, found.sides, texts)]
    if found.pace.backed_off:
        said = f"the rate was halved {found.pace.backed_off:,} times, down to {found.pace.lowest_a_second:.2f} a second"
        blocks.append(Text(said, style="dim"))
    return Group(*blocks)
