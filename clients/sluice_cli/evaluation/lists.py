"""Work of `sluice judgments`: files, clicks, agreement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

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
    table,
)
from sluice_cli.evaluation.evaluate import read_list
from sluice_cli.evaluation.evidence import interval_words
from sluice_client import EventAction
from sluice_judgments.agreement import Agreement, Pairs
from sluice_judgments.agreement import agreement as agreement_of
from sluice_judgments.clicks import Counts, Estimated, Served, clicks_over_expected, position_based
from sluice_judgments.files import FORMS, json_lines
from sluice_judgments.judgments import Judgments, merged
from sluice_judgments.ubi import Recorded, read_ubi
from sluice_statistics.intervals import Estimate

_ESTIMATORS = {"pbm": position_based, "coec": clicks_over_expected}
_PERCENT = 100


async def import_lists(
    _: Connection, lists: Sequence[Path], *, output: Path, queries: Path | None, merge: str, as_json: bool
) -> int:
    """Make one list of several."""
    found = merged([read_list(path, queries) for path in lists], merge)
    write_lines(output, json_lines(found))
    texts = sum(query in found.texts for query in found.grades)
    if as_json:
        print_json({"judgments": len(found), "queries": len(found.grades), "with_text": texts, "file": str(output)})
    else:
        stdout.print(f"{len(found):,} judgments of {len(found.grades):,} queries in {plain(str(output))}")
        if texts < len(found.grades):
            say_warning(f"{len(found.grades) - texts:,} queries have no text, and cannot be asked: give --queries")
    return DONE


async def export_list(_: Connection, source: Path, *, output: Path, form: str) -> int:
    """Write a list in another form."""
    found = read_list(source, None)
    try:
        write_lines(output, FORMS[form](found))
    except ValueError as error:
        raise Problem(str(error), "--format jsonl has room for all", exit_code=WRONG_COMMAND_LINE) from None
    stdout.print(f"{len(found):,} judgments in {plain(str(output))}")
    return DONE


async def from_clicks(
    connection: Connection,
    source: Source,
    *,
    rollout: str,
    output: Path,
    model: str,
    least_impressions: int,
    as_json: bool,
) -> int:
    """Make judgments of clicks; the exit code is 1 if there are none."""
    served = await served_answers(replace(connection, rollout=rollout), source)
    estimated = _ESTIMATORS[model](Counts(served.pages), least_impressions)
    grades: dict[str, dict[str, int]] = {}
    more = {}
    for one in estimated.attractions:
        grades.setdefault(one.query, {})[one.document] = round(_PERCENT * one.value)
        more[one.query, one.document] = {
            "model": model,
            "value": round(one.value, 4),
            "impressions": one.impressions,
            "clicks": one.clicks,
        }
    found = Judgments(grades, {query: text for query, text in served.clear_texts.items() if query in grades})
    write_lines(output, json_lines(found, more))
    counts: dict[str, int | str] = {
        "answers": len(served.pages),
        "without_query": served.without_query,
        "clicks": sum(len(page.clicked) for page in served.pages),
        "judgments": len(found),
        "queries": len(grades),
        "file": str(output),
    }
    if as_json:
        print_json({**counts, "model": model, "positions": estimated.positions})
    else:
        stdout.print(_clicks_view(counts, estimated))
    if served.without_query:
        say_warning(f"{served.without_query:,} answers have no query: FEEDBACK_QUERIES=clear or hashed keeps it")
    if not len(found):
        say_warning(
            f"nothing was shown {least_impressions} times to the same query; a lower --min-impressions may help"
        )
        return NEEDS_A_LOOK
    return DONE


@dataclass(frozen=True, slots=True)
class Source:
    """The place that has what was served."""

    files: Sequence[Path]
    """Lines of UBI, or folders of them; none: the rollout service is asked."""
    collection: str
    anonymous: bool


async def served_answers(connection: Connection, source: Source) -> Recorded:
    """Read what was served and clicked. Raises Problem, SluiceError."""
    found = Recorded(source.anonymous)
    if source.files:
        try:
            read_ubi(chain.from_iterable(_lines_of(path) for path in source.files), found, source.collection)
        except (OSError, ValueError) as error:
            raise Problem(
                f"{' '.join(map(str, source.files))} cannot be used: {error}",
                "give the files that `sluice feedback export` writes, or their folder",
                exit_code=WRONG_COMMAND_LINE,
            ) from None
    else:
        async with connection.experiment_client() as client:
            async for answer in client.feedback(collection=source.collection):
                impression = answer.served.impression
                used = {one.object_id for one in answer.events if one.action in {EventAction.CLICK, EventAction.CITE}}
                page = Served("", impression.object_ids, used, max(1, impression.first_position))
                found.add(answer.served.query, f"{impression.unit:x}" if impression.unit else "", page)
    if found.without_user:
        say_warning(f"{found.without_user:,} answers to nobody are left out; --anonymous counts them, too")
    return found


def _lines_of(path: Path) -> Iterator[str]:
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        with file.open(encoding="utf-8") as lines:
            yield from lines


async def compare_lists(
    _: Connection, one: Path, other: Path, *, relevant: tuple[int, int] | None, as_json: bool
) -> int:
    """Compare two lists; the exit code is 1 if they have nothing in common."""
    found = agreement_of(read_list(one, None), read_list(other, None), relevant=relevant)
    if as_json:
        print_json({**asdict(found), "undecided_pairs": found.pairs.undecided})
    else:
        stdout.print(agreement_view(found))
    return DONE if found.judged else NEEDS_A_LOOK


def agreement_view(found: Agreement) -> RenderableType:
    """Show the agreement of two lists."""
    shown = table("", "95 %")
    shown.add_row("equal grades", _words(found.equal))
    shown.add_row("Cohen's kappa", _words(found.kappa))
    shown.add_row("with quadratic weights", _words(found.weighted_kappa))
    return Group(Text(f"{found.judged:,} judgments of both lists"), shown, pairs_view(found.pairs))


def pairs_view(found: Pairs) -> RenderableType:
    """Show the agreement on pairs."""
    return Text(
        f"of {found.pairs:,} pairs that the first list tells apart, the second has {found.same:,} in the same order, "
        f"{found.opposite:,} in the opposite one, {found.undecided:,} undecided: agreement {_words(found.share)}"
    )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a whole file, or none. Raises Problem, and what `lines` raises."""
    text = "".join(lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}", "name another --output") from None


def _clicks_view(counts: Mapping[str, int | str], estimated: Estimated) -> RenderableType:
    first = ", ".join(f"{position}: {value:.2f}" for position, value in [*estimated.positions.items()][:10])
    return Group(
        Text(
            f"{counts['answers']:,} answers with {counts['clicks']:,} clicks: {counts['judgments']:,} judgments of "
            f"{counts['queries']:,} queries in {plain(str(counts['file']))}"
        ),
        Text(f"positions are looked at, against the first: {first}", style="dim"),
    )


def _words(found: Estimate | None) -> str:
    return "-" if found is None else interval_words(found)
