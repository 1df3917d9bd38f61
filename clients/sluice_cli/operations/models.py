"""`sluice models`: the lock, by which stages load models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Problem, command, plain, print_json, say_warning, stdout, table
from sluice_cli.options import AsJson
from sluice_models import HubSource, Lock, LockedModel, LockError, problems_of
from sluice_models.places import artifact_place, artifacts_in, default_folder, locked, models_in, place_of
from sluice_models.signing import check_signature, sign
from sluice_models.sources import fetch as fetch_model

app = typer.Typer(rich_markup_mode=None)
models = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Say which files models consist of, check them, bring them."
)
app.add_typer(models, name="models")

LockFile = Annotated[
    Path, typer.Option("--lock", metavar="FILE", envvar="MODELS_LOCK", help="The lock.", dir_okay=False)
]
Folder = Annotated[
    Path | None,
    typer.Option("--folder", metavar="FOLDER", help="Folder of models; MODEL_CACHE_DIR, or ~/.cache/sluice/models."),
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Models, short or whole; all of the lock.")
]
PublicKey = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", envvar="MODELS_KEY", help="Public key (PEM) that the lock is signed with."),
]
_DEFAULT = Path("models.lock.toml")


@models.command("lock")
@command
async def lock_models(  # noqa: PLR0913, PLR0917  # each is an option
    context: typer.Context,
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="A model, or a folder of models.", exists=True)
    ],
    lock: LockFile = _DEFAULT,
    name: Annotated[str, typer.Option(help="Whole name of the one model; its folder's name if not given.")] = "",
    hub: Annotated[str, typer.Option(metavar="NAME", help="Repository of the hub that it comes from.")] = "",
    revision: Annotated[str, typer.Option(metavar="COMMIT", help="Commit of that repository.")] = "",
    licence: Annotated[str, typer.Option(help="Its licence; that in its README.md if not given.")] = "",
    key: Annotated[Path | None, typer.Option("--sign", metavar="FILE", help="Private key (PEM) to sign with.")] = None,
    as_json: AsJson = False,
) -> int:
    """Write the files of models, and of what was made of them, into the lock, as they are now.

    Look at where they come from first: a lock vouches for what it found. Other entries of the lock stay.

    \b
    Examples:
      sluice models lock ~/models/bge-small-en-v1.5 --hub BAAI/bge-small-en-v1.5 --revision 5c38ec7
      sluice models lock /models --lock models.lock.toml --sign private.pem
    """
    if bool(hub) != bool(revision):
        raise typer.BadParameter("--hub and --revision go together")
    found = [one for folder in folders for one in models_in(folder)]
    artifacts = [one for folder in folders for one in artifacts_in(folder)]
    if not found and not artifacts:
        raise Problem(f"{folders[0]} holds no model", "Name a folder with a config.json, or the folder above it.")
    if (name or hub) and len(found) != 1:
        raise typer.BadParameter(f"--name and --hub are for one model, and there are {len(found)}")
    try:
        before = Lock.read(lock) if lock.exists() else Lock()
        source = HubSource(hub, revision) if hub else None
        new = [locked(name or own, folder, before, source=source, licence=licence) for own, folder in found]
        after = before.with_models(new, artifacts)
        lock.write_text(after.to_text(), encoding="utf-8")
        if key is not None:
            sign(lock, key)
    except LockError as error:
        raise _refused(error) from error
    if as_json:
        print_json({"lock": str(lock), "models": [_facts(model) for model in new], "artifacts": len(artifacts)})
        return DONE
    for model in new:
        stdout.print(plain(f"{model.name}: {len(model.files)} files, {model.size / 1e6:,.0f} MB, {model.source}"))
        if not model.licence:
            say_warning(f"{model.name} names no licence; give one by --licence")
    stdout.print(plain(f"{lock}: {len(after.models)} models, {len(after.artifacts)} folders made of them"))
    return DONE


@models.command()
@command
async def verify(
    context: typer.Context,
    names: Names = None,
    lock: LockFile = _DEFAULT,
    folder: Folder = None,
    key: PublicKey = None,
    as_json: AsJson = False,
) -> int:
    """Compare models, and what was made of them, with the lock.

    The exit code is 1 if a file differs, is missing or is on no list. A model that is not there at all is named; it
    counts only if it was asked for.

    \b
    Examples:
      sluice models verify
      sluice models verify --lock /opt/sluice/models.lock.toml --folder /models --key public.pem
    """
    place = folder or default_folder()
    content = _read(lock, key)
    rows: list[dict[str, object]] = []
    for model in _chosen(content, names):
        there = place_of(model.name, place)
        problems = problems_of(there, model.files) if there else ([f"not in {place}"] if names else [])
        rows.append({**_facts(model), "folder": str(there or ""), "problems": problems})
    for artifact in content.artifacts.values() if not names else ():
        if there := artifact_place(artifact.name, place):
            problems = problems_of(there, artifact.files)
            rows.append({"name": artifact.name, "folder": str(there), "problems": problems})
    if as_json:
        print_json({"lock": str(lock), "models": rows})
    else:
        stdout.print(_verified(rows))
    return NEEDS_A_LOOK if any(row["problems"] for row in rows) else DONE


@models.command()
@command
async def fetch(
    context: typer.Context,
    names: Names = None,
    lock: LockFile = _DEFAULT,
    folder: Folder = None,
    key: PublicKey = None,
    as_json: AsJson = False,
) -> int:
    """Bring models from where the lock says they come from; none is put in place before all of its files are checked.

    \b
    Examples:
      sluice models fetch
      sluice models fetch all-MiniLM-L6-v2 --folder /models
    """
    place = folder or default_folder()
    brought = []
    with tempfile.TemporaryDirectory(prefix="models-") as downloads:
        for model in _chosen(_read(lock, key), names):
            there = place_of(model.name, place)
            new = there is None or bool(problems_of(there, model.files))
            if new:
                try:
                    there = fetch_model(model, place, Path(downloads))
                except LockError as error:
                    raise _refused(error) from error
            brought.append({**_facts(model), "folder": str(there), "fetched": new})
            if not as_json:
                stdout.print(plain(f"{model.name}: {'fetched into' if new else 'whole in'} {there}"))
    if as_json:
        print_json({"lock": str(lock), "models": brought})
    return DONE


def _read(lock: Path, key: Path | None) -> Lock:
    try:
        if key is not None:
            check_signature(lock, key)
        return Lock.read(lock)
    except LockError as error:
        raise _refused(error) from error


def _chosen(lock: Lock, names: list[str] | None) -> list[LockedModel]:
    if not names:
        return list(lock.models)
    chosen = []
    for name in names:
        if (model := lock.find(name)) is None:
            known = ", ".join(model.name for model in lock.models)
            raise Problem(f"the lock has no model {name}", f"Name one of: {known}.")
        chosen.append(model)
    return chosen


def _facts(model: LockedModel) -> dict[str, object]:
    return {
        "name": model.name,
        "source": str(model.source),
        "licence": model.licence,
        "files": len(model.files),
        "bytes": model.size,
    }


def _verified(rows: list[dict[str, object]]) -> Table:
    shown = table("name", "source", "licence", "state")
    for row in rows:
        problems = row["problems"]
        state = (
            "; ".join(problems) if isinstance(problems, list) and problems else "whole" if row["folder"] else "not here"
        )
        shown.add_row(*(plain(str(row.get(column, ""))) for column in ("name", "source", "licence")), plain(state))
    return shown


def _refused(error: LockError) -> Problem:
    return Problem(str(error), "Look at the lock and at the files; `sluice models verify` lists what differs.")
