"""`sluice audit`: reads the audit logs of stages."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Problem, command, plain, print_json, say_warning, stdout, table
from sluice_cli.operations.audit_chain import MOST_PROBLEMS, check
from sluice_cli.options import AsJson

app = typer.Typer(rich_markup_mode=None)
audit = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read the audit logs of stages.")
app.add_typer(audit, name="audit")

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Files of one log, the oldest first.", exists=True, dir_okay=False),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@audit.command()
@command
async def verify(
    context: typer.Context,
    files: Files,
    key: Annotated[
        str, typer.Option(envvar="AUDIT_KEY", help="Key of the log's chain; empty for none.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Check that no line of a chained log was changed, taken out, put in or moved.

    The exit code is 1 if one was. The file FILE.head beside the last file tells of lines cut off at its end.

    \b
    Examples:
      sluice audit verify /var/log/sluice/gateway.jsonl
      sluice audit verify gateway.jsonl.2 gateway.jsonl.1 gateway.jsonl
    """
    checked = check(files, key.encode())
    if as_json:
        print_json(checked)
        return NEEDS_A_LOOK if checked.problems else DONE
    for note in checked.notes:
        say_warning(note)
    for problem in checked.problems:
        stdout.print(plain(problem))
    if len(checked.problems) == MOST_PROBLEMS:
        stdout.print("... and perhaps more")
    if not checked.problems:
        stdout.print(f"{checked.lines} lines hold, numbers {checked.first_number} to {checked.last_number}")
    return NEEDS_A_LOOK if checked.problems else DONE


@audit.command()
@command
async def show(  # noqa: PLR0913, PLR0917  # each is an option
    context: typer.Context,
    files: Files,
    identity: Annotated[str, typer.Option(metavar="TEXT", help="Keep lines of identities with this text.")] = "",
    method: Annotated[str, typer.Option(metavar="TEXT", help="Keep lines of methods with this text.")] = "",
    on: Annotated[str, typer.Option(metavar="NAME", help="Keep lines about a collection, version or feature.")] = "",
    outcome: Annotated[str, typer.Option(metavar="CODE", help="Keep lines with this outcome or reason.")] = "",
    request: Annotated[str, typer.Option(metavar="ID", help="Keep lines of one request.")] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Keep lines from then on: 15m, 2h, 2026-11-28T18:00.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Last lines to show; 0 shows all.")] = 50,
    as_json: AsJson = False,
) -> int:
    """Show lines of audit logs that match all filters.

    \b
    Examples:
      sluice audit show gateway.jsonl --outcome PERMISSION_DENIED --since 1h
      sluice audit show gateway.jsonl --on papers --method Delete --json
    """
    first = _moment(since)
    texts = {"identity": identity.casefold(), "method": method.casefold()}
    kept: deque[dict[str, Any]] = deque(maxlen=limit or None)
    for line in _lines(files):
        if (
            all(text in str(line.get(name, "")).casefold() for name, text in texts.items())
            and (not on or on in _names(line))
            and outcome.upper() in ("", line.get("outcome"), line.get("reason"))
            and request in ("", line.get("request_id"))
            and str(line.get("time", "")) >= first
        ):
            kept.append(line)
    if as_json:
        print_json(list(kept))
    else:
        _print(kept)
    return DONE


def _print(lines: Sequence[dict[str, Any]] | deque[dict[str, Any]]) -> None:
    shown = table("time", "identity", "method", "object", "outcome", "times", "request")
    for line in lines:
        who = str(line.get("identity") or line.get("peer", ""))
        made_for = f" for {line['for']}" if "for" in line else ""
        outcome = " ".join(str(line[name]) for name in ("outcome", "reason") if line.get(name))
        about = " ".join(f"{name}={value}" for name, value in (line.get("object") or {}).items())
        shown.add_row(
            str(line.get("time", ""))[:23],
            who + made_for,
            str(line.get("method") or line.get("event", "")).rpartition("/")[2],
            about,
            outcome,
            str(line.get("count", line.get("lines", ""))),
            str(line.get("request_id", "")),
        )
    stdout.print(shown)


def _lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as opened:
            for place, text in enumerate(opened, start=1):
                try:
                    line = json.loads(text)
                except ValueError:
                    line = None
                if isinstance(line, dict):
                    yield line
                else:
                    say_warning(f"{file.name}:{place} is no line of an audit log")


def _names(line: dict[str, Any]) -> list[Any]:
    found = line.get("object")
    return [value for value in found.values() if isinstance(value, str)] if isinstance(found, dict) else []


def _moment(text: str) -> str:
    """The moment that a text names, as the log writes it. Raises Problem."""
    if not text:
        return ""
    try:
        if text[-1] in _UNITS:
            moment = datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
        else:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Problem(f"--since {text!r} is no time", "write 15m, 2h, 3d, or 2026-11-28T18:00", exit_code=2) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")
