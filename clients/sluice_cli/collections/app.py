"""Command lines of `sluice collections`, `reindex`, `verify`, `rollback` and `snapshot`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from typing import Annotated

import typer

from sluice_cli.options import AsJson, Collection, Sure

app = typer.Typer(rich_markup_mode=None)
collections = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
snapshot = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep copies of versions, and restore them.")
app.add_typer(collections, name="collections")
app.add_typer(snapshot, name="snapshot")

CollectionName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]


@collections.callback()
def list_(
    context: typer.Context,
    drop: Annotated[str, typer.Option(metavar="VERSION", help="Delete this version first; not a live one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show all versions of all collections, or create or delete a collection.

    \b
    Examples:
      sluice collections
      sluice collections --json | jq -r '.[] | select(.live) | .version'
      sluice collections --drop documents-v1
      sluice collections create papers --model all-mpnet-base-v2
      sluice collections delete papers
    """
    if context.invoked_subcommand is not None:
        return
    from sluice_cli import calls
    from sluice_cli.collections import versions

    calls.run(context, versions.show, drop, as_json=as_json)


@collections.command("create")
def create(
    context: typer.Context,
    name: CollectionName,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, by its short or whole name; the first embedder's if not given.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Create an empty collection for a model. `sluice index` creates one with its first document, too.

    \b
    Examples:
      sluice collections create papers
      sluice collections create papers --model all-mpnet-base-v2
    """
    from sluice_cli import calls
    from sluice_cli.collections import versions

    calls.run(context, versions.create, name, model, as_json=as_json)


@collections.command("delete")
def delete(context: typer.Context, name: CollectionName, sure: Sure = False, as_json: AsJson = False) -> None:
    """Delete a collection with all of its versions, for good. Its snapshots stay.

    Asks for the name to be typed; without a terminal it needs --yes.

    \b
    Examples:
      sluice collections delete papers
      sluice collections delete papers --yes
    """
    from sluice_cli import calls
    from sluice_cli.collections import versions

    calls.run(context, versions.delete, name, sure=sure, as_json=as_json)


@app.command()
def reindex(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, by its short or whole name; an embedder serves it.")
    ],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Build a version by another model next to the live one, verify it, and switch to it in one step.

    Meanwhile questions are answered, and documents stored and deleted. The version before stays for `sluice rollback`.
    After a stop at any point, the same command goes on; the live version is untouched until the switch.

    The gateway has to know an embedder that serves the model: EMBEDDER_ADDITIONAL_ADDRESSES.

    \b
    Examples:
      sluice reindex --model all-mpnet-base-v2
      sluice reindex --model all-mpnet-base-v2 --collection papers --json
    """
    from sluice_cli import calls
    from sluice_cli.collections import reindex as command

    calls.run(context, command.reindex, model, collection, as_json=as_json)


@app.command()
def rollback(
    context: typer.Context,
    collection: Collection = "",
    to: Annotated[str, typer.Option(metavar="VERSION", help="A ready version; the one before if not given.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the version live again that was live before. Takes less than a second.

    Documents that were stored or deleted since the switch are so only in the version left.

    \b
    Examples:
      sluice rollback
      sluice rollback --collection papers --to papers-v3
    """
    from sluice_cli import calls
    from sluice_cli.collections import rollback as command

    calls.run(context, command.rollback, collection, to, as_json=as_json)


@app.command()
def verify(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A version; the live one if not given.")] = "",
    collection: Collection = "",
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, max=500, help="Passages to sample.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a version: counts, vectors computed again, and its results against the live version's.

    The exit code is 1 if a check failed.

    \b
    Examples:
      sluice verify
      sluice verify documents-v2 --sample 200
    """
    from sluice_cli import calls
    from sluice_cli.collections import verify as command

    calls.run(context, command.verify, collection, version, sample, as_json=as_json)


@snapshot.command("create")
def snapshot_create(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Keep a consistent copy of the live version.

    \b
    Examples:
      sluice snapshot create
      sluice snapshot create --collection papers-v2      a version that is not live
    """
    from sluice_cli import calls
    from sluice_cli.collections import snapshot as command

    calls.run(context, command.create, collection, as_json=as_json)


@snapshot.command("list")
def snapshot_list(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """List the copies of all versions of a collection, newest first.

    \b
    Examples:
      sluice snapshot list
      sluice snapshot list --json | jq -r '.[0].name'
    """
    from sluice_cli import calls
    from sluice_cli.collections import snapshot as command

    calls.run(context, command.show, collection, as_json=as_json)


@snapshot.command("restore")
def snapshot_restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="A name from `sluice snapshot list`.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Make a new version of a copy, and make it live. The version before stays for `sluice rollback`.

    \b
    Examples:
      sluice snapshot restore documents-v1-2026-11-21-09-30-00-000000
    """
    from sluice_cli import calls
    from sluice_cli.collections import snapshot as command

    calls.run(context, command.restore, name, collection, as_json=as_json)


@snapshot.command("prune")
def snapshot_prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="Number of the newest to keep.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Delete all copies of a collection but the newest.

    \b
    Examples:
      sluice snapshot prune --keep 3
    """
    from sluice_cli import calls
    from sluice_cli.collections import snapshot as command

    calls.run(context, command.prune, keep, collection, as_json=as_json)
