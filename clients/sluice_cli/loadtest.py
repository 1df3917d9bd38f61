"""`sluice loadtest`: searches of many users at once, with limits that they must keep."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_problem,
    stderr,
    stdout,
)
from sluice_cli.load import Zipf, closed
from sluice_cli.plan_files import parse_share
from sluice_client import EVERYBODY_PPM, Arm, AsyncClient, Blame, Features, Outcome, SluiceError
from sluice_statistics.percentiles import percentile

_MOST_QUESTION_BYTES = 8192
_QUESTIONS = resources.files("sluice_cli") / "questions.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line; None is an option that was not given."""

    requests: int
    concurrency: int
    users: int
    skew: float
    questions: Path | None
    collection: str
    features: Features
    seed: int
    plot: Path | None
    max_error_rate: str | None
    """A percentage, as it was typed."""
    max_p95_ms: float | None
    max_p99_ms: float | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that ended."""

    user: str
    ended: float
    """Seconds since the load began."""
    seconds: float
    """Its duration."""
    code: str
    """OK, or the error's code and reason."""
    degraded: bool = False
    empty: bool = False
    snapshot_version: int = 0
    arms: Mapping[str, Arm] = field(default_factory=dict)
    """By feature; empty for a request that failed."""


@dataclass(frozen=True, slots=True)
class Side:
    """Results of some of the requests."""

    requests: int
    users: int
    errors: int
    degraded: int
    """Answered, with a stage missing or degraded."""
    empty: int
    """Answered, without a result."""
    p50_ms: float | None
    """Of answered requests, as the others; None if there are none."""
    p95_ms: float | None
    p99_ms: float | None
    slowest_ms: float | None

    @property
    def error_rate(self) -> float:
        """Share of requests that failed."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that the load test was given."""

    name: str
    allowed: float
    seen: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Results of a load test."""

    seconds: float
    total: Side
    codes: dict[str, int]
    arms: dict[str, dict[str, Side]]
    """By feature and arm."""
    snapshots: dict[int, int]
    """Answers by the version of the snapshot that decided them."""
    limits: list[Limit] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.total.requests / self.seconds if self.seconds else 0.0


async def loadtest(connection: Connection, options: Options) -> int:
    """Ask and show; the exit code is 1 if a limit was passed, or if nothing was answered."""
    questions, limits = read_questions(options.questions), _limits(options)
    chance = random.Random(options.seed)  # noqa: S311  # no secret
    users = Zipf([f"user-{number}" for number in range(1, options.users + 1)], options.skew, chance)
    popular = Zipf(questions, options.skew, chance)
    asked: list[Asked] = []
    async with connection.client() as client:
        started = time.perf_counter()
        with _progress() as progress:
            bar = progress.add_task("asking", total=options.requests, failed=0)
            failed = 0

            async def ask() -> None:
                nonlocal failed
                one = await _ask(client, users.draw(), popular.draw(), options, started)
                asked.append(one)
                failed += one.code != "OK"
                progress.update(bar, advance=1, failed=failed)

            try:
                await closed(ask, requests=options.requests, concurrency=options.concurrency)
            except ExceptionGroup as refused:
                raise refused.exceptions[0] from None
        seconds = time.perf_counter() - started
    outcomes = summed(asked, seconds, limits)
    if options.as_json:
        print_json({**asdict(outcomes), "rate": outcomes.rate, "error_rate": outcomes.total.error_rate})
    else:
        stdout.print(outcomes_view(outcomes))
    if options.plot is not None:
        _draw(asked, outcomes, options.plot)
    if outcomes.total.errors == outcomes.total.requests:
        code = next(iter(outcomes.codes))
        say_problem(
            f"no request was answered; most ended with {code}",
            f"`sluice doctor` says what is wrong with {connection.gateway}; start a gateway here with `make up`, "
            "or name another with --gateway",
        )
        return NEEDS_A_LOOK
    return DONE if all(limit.passed for limit in outcomes.limits) else NEEDS_A_LOOK


async def _ask(client: AsyncClient, user: str, question: str, options: Options, began: float) -> Asked:
    started = time.perf_counter()
    try:
        answer = await client.search(question, collection=options.collection, user_id=user, features=options.features)
    except SluiceError as error:
        if error.blame is Blame.CALLER:  # it would be the same for every request, and says nothing of the service
            raise
        ended = time.perf_counter()
        code = error.code.name if error.reason == error.code.name else f"{error.code.name} {error.reason}"
        return Asked(user, ended - began, ended - started, code)
    ended = time.perf_counter()
    return Asked(
        user,
        ended - began,
        ended - started,
        "OK",
        degraded=any(report.outcome in {Outcome.DEGRADED, Outcome.FAILED} for report in answer.stages),
        empty=not answer.results,
        snapshot_version=answer.snapshot_version,
        arms={arm.feature: arm.arm for arm in answer.arms},
    )


def _limits(options: Options) -> dict[str, float]:
    """Limits of the command line, by name."""
    most = options.max_error_rate
    limits = {
        "error rate": None if most is None else parse_share(most) / EVERYBODY_PPM,
        "P95 in ms": options.max_p95_ms,
        "P99 in ms": options.max_p99_ms,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def summed(asked: Sequence[Asked], seconds: float, allowed: Mapping[str, float]) -> Outcomes:
    """Sum up requests, and compare them with the limits."""
    features = sorted({feature for one in asked for feature in one.arms})
    arms = {
        feature: {
            arm.value: _side([one for one in asked if one.arms.get(feature) is arm])
            for arm in (Arm.TREATMENT, Arm.CONTROL, Arm.STANDARD)
        }
        for feature in features
    }
    total = _side(asked)
    seen = {"error rate": total.error_rate, "P95 in ms": total.p95_ms, "P99 in ms": total.p99_ms}
    limits = [
        Limit(name, most, found, found is not None and found <= most)
        for name, most in allowed.items()
        for found in (seen[name],)
    ]
    codes = Counter(one.code for one in asked)
    snapshots = Counter(one.snapshot_version for one in asked if one.code == "OK")
    return Outcomes(seconds, total, dict(codes.most_common()), arms, dict(sorted(snapshots.items())), limits)


def _side(asked: Sequence[Asked]) -> Side:
    answered = sorted(one.seconds * 1000 for one in asked if one.code == "OK")
    return Side(
        requests=len(asked),
        users=len({one.user for one in asked}),
        errors=len(asked) - len(answered),
        degraded=sum(one.degraded for one in asked),
        empty=sum(one.empty for one in asked),
        p50_ms=_at(answered, 50),
        p95_ms=_at(answered, 95),
        p99_ms=_at(answered, 99),
        slowest_ms=answered[-1] if answered else None,
    )


def _at(milliseconds: Sequence[float], percent: float) -> float | None:
    return percentile(milliseconds, percent) if milliseconds else None


def read_questions(path: Path | None) -> list[str]:
    """Read questions, one a line or a BEIR folder's queries.jsonl; without a path, those of the command."""
    if path is None:
        return _QUESTIONS.read_text(encoding="utf-8").splitlines()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line)["text"] if path.suffix == ".jsonl" else line for line in lines if line.strip()]
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not UTF-8") from None
    except (ValueError, TypeError, KeyError):
        raise _unreadable(path, 'a line of a .jsonl file is to be an object with "text"') from None
    good = [
        question
        for question in questions
        if isinstance(question, str) and question.strip() and len(question.encode()) <= _MOST_QUESTION_BYTES
    ]
    if not good:
        raise _unreadable(path, f"it holds no question of at most {_MOST_QUESTION_BYTES:,} bytes")
    return good


def _unreadable(path: Path, why: str) -> Problem:
    return Problem(
        f"{path} cannot be used: {why}",
        'give a text with a question a line, or a .jsonl with {"text": ...} a line',
        exit_code=WRONG_COMMAND_LINE,
    )


def outcomes_view(outcomes: Outcomes) -> RenderableType:
    """Show results as text."""
    total = outcomes.total
    head = Text(f"{total.requests:,} requests of {total.users:,} users in {outcomes.seconds:.1f} s: ")
    head.append(f"{outcomes.rate:,.1f} a second", style="bold")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("requests", "users", "failed", "degraded", "empty", "P50", "P95", "P99", "slowest"):
        table.add_column(name, justify="right")
    _row(table, "all", total)
    for feature, sides in outcomes.arms.items():
        for arm, side in sides.items():
            _row(table, f"{plain(feature)}: {arm}", side)
    blocks: list[RenderableType] = [head, table]
    if set(outcomes.codes) != {"OK"}:
        named = ", ".join(f"{count:,} {plain(code)}" for code, count in outcomes.codes.items())
        blocks.append(Text(f"ended with: {named}"))
    if set(outcomes.snapshots) - {0}:
        versions = ", ".join(f"{version} ({count:,})" for version, count in outcomes.snapshots.items())
        blocks.append(Text(f"decided by snapshot: {versions}", style="dim"))
    for limit in outcomes.limits:
        mark = Text("ok     ", style="green") if limit.passed else Text("FAILED ", style="bold red")
        seen = "nothing was answered" if limit.seen is None else f"{limit.seen:.4g}"
        blocks.append(Text.assemble(mark, f"{limit.name}: {seen}, at most {limit.allowed:.4g}"))
    return Group(*blocks)


def _row(table: Table, name: str, side: Side) -> None:
    times = (side.p50_ms, side.p95_ms, side.p99_ms, side.slowest_ms)
    table.add_row(
        name,
        f"{side.requests:,}",
        f"{side.users:,}",
        Text(f"{side.error_rate:.2%}".replace("%", " %"), style="red" if side.errors else ""),
        f"{side.degraded:,}",
        f"{side.empty:,}",
        *("-" if value is None else f"{value:,.0f} ms" for value in times),
    )


def _draw(asked: Sequence[Asked], outcomes: Outcomes, path: Path) -> None:
    """Draw latency over time, request by request, and its distribution."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError:
        raise Problem("no plot without matplotlib", "pip install 'sluice-retrieval[report]'") from None
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_time, distribution = figure.subplots(1, 2, width_ratios=(3, 2))
    for name, colour, chosen in (
        ("answered", "#1f6feb", [one for one in asked if one.code == "OK" and not one.degraded]),
        ("degraded", "#bf8700", [one for one in asked if one.degraded]),
        ("failed", "#cf222e", [one for one in asked if one.code != "OK"]),
    ):
        if chosen:
            times, took = [one.ended for one in chosen], [one.seconds * 1000 for one in chosen]
            over_time.plot(times, took, ".", color=colour, markersize=3, label=name)
    over_time.set_xlabel("seconds since the start")
    over_time.set_ylabel("ms")
    over_time.set_yscale("log")
    over_time.legend(frameon=False, loc="upper left")
    answered = sorted(one.seconds * 1000 for one in asked if one.code == "OK")
    shares = [100 * place / len(answered) for place in range(1, len(answered) + 1)]
    distribution.plot(answered, shares, color="#1f6feb")
    for name, value in (("P50", outcomes.total.p50_ms), ("P95", outcomes.total.p95_ms), ("P99", outcomes.total.p99_ms)):
        if value is not None:
            distribution.axvline(value, color="#6e7781", linewidth=0.8, linestyle=":")
            distribution.annotate(f"{name} {value:,.0f} ms", (value, 4), rotation=90, fontsize=8, ha="right")
    distribution.set_xlabel("ms")
    distribution.set_ylabel("% answered within")
    distribution.set_ylim(0, 101)
    total = outcomes.total
    figure.suptitle(
        f"{total.requests:,} requests, {outcomes.rate:,.1f} a second, {total.error_rate:.2%} failed", fontsize=11
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Problem(f"the plot cannot be written: {error}", "name a .png or .svg file that can be") from None
    stdout.print(f"{plain(str(path))} written", soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]:,} failed"),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )
