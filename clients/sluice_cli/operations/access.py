"""`sluice access`: keys of callers, and explanations of what they may."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    Problem,
    command,
    connection_of,
    plain,
    print_json,
    stderr,
    stdout,
)
from sluice_cli.options import AsJson
from sluice_client import AccessDecision

app = typer.Typer(rich_markup_mode=None)
access = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make keys, and ask who may do what.")
key = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys of callers, in the file AUTH_CALLERS.")
access.add_typer(key, name="key")
app.add_typer(access, name="access")

KEY_PREFIX = "sluice_"
_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ROLE = re.compile(r"[a-z][a-z0-9-]{0,63}")

Roles = Annotated[
    list[str] | None,
    typer.Option("--role", metavar="ROLE", help="Role; may be repeated. docs/access.md says what each may do."),
]
Tenant = Annotated[str, typer.Option(metavar="TENANT", help="Tenant; none if not given.")]


@access.command()
@command
async def check(
    context: typer.Context,
    who: Annotated[str, typer.Option("--as", metavar="CALLER", help="As key:nightly, dns:gateway, jwt:alice.")],
    method: Annotated[str, typer.Option("--may", metavar="METHOD", help="As Search, or RolloutService/KillFeature.")],
    on: Annotated[str, typer.Option(metavar="COLLECTION", help="The gateway's default if not given.")] = "",
    roles: Roles = None,
    tenant: Tenant = "",
    as_json: AsJson = False,
) -> int:
    """Ask the gateway whether a caller may do something, and which policy decides.

    The exit code is 1 if it may not. Roles and tenant are for callers with tokens, which no file has. Callers who may
    ask this are operators and auditors.

    \b
    Examples:
      sluice access check --as nightly-index --may IndexDocuments --on papers
      sluice access check --as jwt:alice --role reader --tenant blue --may Search --on blue-notes
      sluice access check --as dns:gateway --may ReportEvidence
    """
    async with connection_of(context).client() as client:
        found = await client.check_access(who, method, collection=on, roles=roles or (), tenant=tenant)
    if as_json:
        print_json(found)
    else:
        stdout.print(_in_words(found))
    return DONE if found.allowed else NEEDS_A_LOOK


def _in_words(found: AccessDecision) -> str:
    where = f" on {found.collection}" if found.collection else ""
    of = f" of {found.tenant}" if found.tenant else ""
    lines = [f"{found.identity} ({', '.join(found.roles) or 'no role'}{of})"]
    lines.append(f"{'may' if found.allowed else 'may not'} {found.action}{where}")
    verb = "permitted" if found.allowed else "refused"
    lines.append(f"{verb} by {', '.join(found.policies)}" if found.policies else "no policy permits it")
    lines += [f"only documents with {one.field} = {one.value}" for one in found.conditions]
    return "\n".join(map(plain, lines))


@key.command()
@command
async def new(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the caller: its identity is key:NAME.")],
    roles: Roles = None,
    tenant: Tenant = "",
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Its collections, as blue-*; may be repeated. All if not given."),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", min=0, help="Days until it expires; 0 for never.")] = 365,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="AUTH_CALLERS", help="File of callers that gets the row; shown if none."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a key, and add its hash to the file of callers, which stages read again by themselves.

    The key is written to standard output, once; nobody can read it from the file.

    \b
    Examples:
      sluice access key new nightly-index --role writer --file callers.toml
      export SLUICE_TOKEN=$(sluice access key new me --role reader --role operator --file callers.toml)
    """
    _check(name, roles or [])
    made = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    row = _row(name, made, roles or [], tenant, on or [], days)
    if file is not None:
        _add(file, name, row)
    if as_json:
        print_json({"identity": f"key:{name}", "key": made, "row": row, "file": None if file is None else str(file)})
        return DONE
    where = "add this to the file AUTH_CALLERS:\n\n" + row if file is None else f"added key:{name} to {file}"
    stderr.print(where)
    stdout.print(made)
    return DONE


def _check(name: str, roles: list[str]) -> None:
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("is 1 to 64 letters, digits, '.', '_' or '-'", param_hint="NAME")
    if not roles or not all(_ROLE.fullmatch(role) for role in roles):
        raise typer.BadParameter("name one or more, as reader, writer, operator or auditor", param_hint="--role")


def _row(name: str, made: str, roles: list[str], tenant: str, on: list[str], days: int) -> str:
    # A text of JSON is one of TOML, too.
    lines = [
        "[[key]]",
        f"name = {json.dumps(name)}",
        f"sha256 = {json.dumps(hashlib.sha256(made.encode()).hexdigest())}",
        f"roles = {json.dumps(roles)}",
    ]
    if tenant:
        lines.append(f"tenant = {json.dumps(tenant)}")
    if on:
        lines.append(f"collections = {json.dumps(on)}")
    if days:
        until = datetime.now(UTC) + timedelta(days=days)
        lines.append(f"expires = {until:%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


def _add(file: Path, name: str, row: str) -> None:
    """Add a row to a file. It is replaced whole: a stage that reads it meanwhile sees it before or after."""
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        known = tomllib.loads(before)
        if any(one.get("name") == name for one in known.get("key", [])):
            raise Problem(f"{file} has a key named {name!r} already", "choose another name, or delete its rows first")
        text = f"{before.rstrip()}\n\n{row}" if before.strip() else row
        tomllib.loads(text)
        new_file = file.with_name(f".{file.name}.{os.getpid()}")
        new_file.touch(mode=file.stat().st_mode & 0o777 if before else 0o600)
        new_file.write_text(text, encoding="utf-8")
        new_file.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{file} cannot be changed: {error}", "name another with --file") from None
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{file} is no TOML: {error}", "correct it first") from None
