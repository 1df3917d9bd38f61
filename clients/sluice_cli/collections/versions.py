"""`sluice collections`: versions, and the creation and deletion of collections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from sluice_cli.calls import DONE, command, confirm, connection_of, plain, print_json, stdout
from sluice_cli.options import AsJson, Sure
from sluice_client import CollectionVersion, ListedVersion, VersionState

app = typer.Typer(rich_markup_mode=None)
collections = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.add_typer(collections, name="collections")

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
    if context.invoked_subcommand is None:
        show(context=context, drop=drop, as_json=as_json)


@command
async def show(context: typer.Context, drop: str, as_json: bool) -> int:
    """Show all versions, after deleting one if asked."""
    async with connection_of(context).client() as client:
        if drop:
            await client.delete_version(drop)
        versions = [listed async for listed in client.list_collections()]
    if as_json:
        print_json([version_json(listed) for listed in versions])
        return DONE
    if drop:
        stdout.print(f"{plain(drop)} dropped", markup=False)
    stdout.print(versions_view(versions) if versions else "no collections yet; `sluice index` makes one")
    return DONE


@collections.command("create")
@command
async def create(
    context: typer.Context,
    name: CollectionName,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, by its short or whole name; the first embedder's if not given.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Create an empty collection for a model.

    \b
    Examples:
      sluice collections create papers
      sluice collections create papers --model all-mpnet-base-v2
    """
    async with connection_of(context).client() as client:
        version = await client.create_collection(name, model=model)
    if as_json:
        print_json(version)
    else:
        stdout.print(f"{plain(name)} is {plain(version.version)}, empty, by {plain(version.model.name)}", markup=False)
    return DONE


@collections.command("delete")
@command
async def delete(context: typer.Context, name: CollectionName, sure: Sure = False, as_json: AsJson = False) -> int:
    """Delete a collection for good; its snapshots stay.

    Asks for the name to be typed; without a terminal it needs --yes.

    \b
    Examples:
      sluice collections delete papers
      sluice collections delete papers --yes
    """
    async with connection_of(context).client() as client:
        found = [listed.version async for listed in client.list_collections(name)]
        if found:  # the gateway says it best if there is none
            passages = next((version.passage_count for version in found if version.live), 0)
            what = f"{plain(name)} with {len(found)} versions and {passages:,} live passages is deleted for good"
            confirm(what, sure, name=name)
        deleted = await client.delete_collection(name)
    if as_json:
        print_json({"collection": name, "versions": deleted})
    else:
        stdout.print(f"{plain(name)} is deleted: {', '.join(map(plain, deleted))}", markup=False)
    return DONE


def version_json(listed: ListedVersion) -> dict[str, object]:
    """List the fields of a version for JSON."""
    return {**dataclasses.asdict(listed.version), "model_served": listed.model_served}


def versions_view(versions: Sequence[ListedVersion]) -> Text:
    """Show versions by collection, two lines each."""
    lines: list[Text] = []
    last = ""
    for listed in versions:
        version, model = listed.version, listed.version.model
        if version.collection != last:
            lines.append(Text(plain(version.collection), style="bold"))
        last = version.collection
        passages, created = f"{version.passage_count:,} passages", f"{version.create_time.astimezone():%Y-%m-%d %H:%M}"
        lines.append(Text.assemble("  ", plain(version.version), "  ", _state(version), f"  {passages}  {created}"))
        served = "" if listed.model_served else " (not served)"
        about = [
            f"{plain(model.name)}{served}, {model.dimension} dimensions",
            plain(model.precision),
            f"words: {plain(version.lexical_settings)}" if version.lexical_settings else "",
            f"from {plain(version.source)}" if version.source else "",
        ]
        lines.append(Text("    " + ", ".join(part for part in about if part), style="dim"))
    return Text("\n").join(lines)


def _state(version: CollectionVersion) -> Text:
    if version.live:
        building = f", building {plain(version.building_version)}" if version.building_version else ""
        return Text(f"live{building}", style="green")
    return Text(version.state, style="yellow" if version.state is VersionState.BUILDING else "dim")
