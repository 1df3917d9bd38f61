"""`sluice collections`, `rollback` and `verify`: collections and their versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    command,
    confirm,
    connection_of,
    plain,
    print_json,
    stderr,
    stdout,
    table,
    words,
)
from sluice_cli.collections.layout import layout_of, layout_text
from sluice_cli.options import AsJson, Collection, CollectionArgument, Late, Sure, one_of
from sluice_client import CollectionVersion, ListedVersion, ModelInfo, Switched, VersionCheck, VersionState

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
      sluice collections create artikel --language german
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
        stdout.print(f"{plain(drop)} dropped")
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
    language: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Language of its words, for stems and stop words, as german; none takes words as written. English, or "
            "the retriever's LEXICAL_LANGUAGE, if not given.",
        ),
    ] = "",
    layout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="How it is kept, as shards=3; may be repeated. See `sluice tune --help`."
        ),
    ] = None,
    late: Late = None,
    as_json: AsJson = False,
) -> int:
    """Create an empty collection for a model.

    \b
    Examples:
      sluice collections create papers
      sluice collections create papers --model all-mpnet-base-v2
      sluice collections create artikel --language german
      sluice collections create papers --no-late
      sluice collections create papers --layout shards=3 --layout quantization=int8
    """
    kept = layout_of(layout or [])
    async with connection_of(context).client() as client:
        version = await client.create_collection(name, model=model, language=language, layout=kept, token_vectors=late)
    if as_json:
        print_json(version)
    else:
        models = f"by {version.model.name}"
        if version.token_model is not None:
            models += f", token vectors by {version.token_model.name}"
        stdout.print(f"{plain(name)} is {plain(version.version)}, empty, {plain(models)}")
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
        stdout.print(f"{plain(name)} is deleted: {', '.join(map(plain, deleted))}")
    return DONE


def version_json(listed: ListedVersion) -> dict[str, object]:
    """List the fields of a version for JSON."""
    served = {"model_served": listed.model_served, "token_model_served": listed.token_model_served}
    return {**dataclasses.asdict(listed.version), **served}


def versions_view(versions: Sequence[ListedVersion]) -> Text:
    """Show versions by collection, some lines each: a terminal of 80 columns has room for most of them."""
    lines: list[Text] = []
    last = ""
    for listed in versions:
        version, model, tokens = listed.version, listed.version.model, listed.version.token_model
        if version.collection != last:
            lines.append(Text(plain(version.collection), style="bold"))
        last = version.collection
        passages, created = f"{version.passage_count:,} passages", f"{version.create_time.astimezone():%Y-%m-%d %H:%M}"
        lines.append(Text.assemble("  ", plain(version.version), "  ", _state(version), f"  {passages}  {created}"))
        about = [
            _model_text(model, listed.model_served),
            f"token vectors: {_model_text(tokens, listed.token_model_served)}" if tokens is not None else "",
            f"words: {version.lexical_settings}" if version.lexical_settings else "",
            "relations: all passages have their keys" if version.enriched else "",
            ", ".join(part for part in (version.source, layout_text(version.layout)) if part),
        ]
        lines += [Text(f"    {plain(line)}", style="dim") for line in about if line]
    return Text("\n").join(lines)


def _model_text(model: ModelInfo, served: bool) -> str:
    return f"{model.name}{'' if served else ' (not served)'}, {model.dimension} dimensions, {model.precision}"


def _state(version: CollectionVersion) -> Text:
    if version.live:
        building = f", building {plain(version.building_version)}" if version.building_version else ""
        return Text(f"live{building}", style="green")
    return Text(version.state, style="yellow" if version.state is VersionState.BUILDING else "dim")


@app.command()
@command
async def rollback(
    context: typer.Context,
    name: CollectionArgument = "",
    collection: Collection = "",
    to: Annotated[str, typer.Option(metavar="VERSION", help="A ready version; the one before if not given.")] = "",
    as_json: AsJson = False,
) -> int:
    """Make the version live again that was live before.

    Documents that were stored or deleted since the switch are so only in the version left.

    \b
    Examples:
      sluice rollback
      sluice rollback papers --to papers-v3
    """
    collection = one_of(name, collection)
    async with connection_of(context).client() as client:
        switched = await client.rollback(to, collection=collection)
    print_switch(switched, as_json=as_json)
    return DONE


def print_switch(switched: Switched, *, as_json: bool) -> None:
    """Print the version that is live now, and the way back."""
    live, before = switched.live, switched.previous_version
    if as_json:
        print_json(
            {"collection": live.collection, "live": live.version, "previous": before, "passages": live.passage_count}
        )
        return
    stdout.print(
        f"{plain(live.collection)} is {plain(live.version)} now: {live.passage_count:,} passages by "
        f"{plain(live.model.name)}; it was {plain(before) or 'nothing'}",
    )
    if before:
        stdout.print("documents stored since the switch are in the version left; `sluice rollback` returns to it")


@app.command()
@command
async def verify(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A version; the live one if not given.")] = "",
    collection: Collection = "",
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, max=500, help="Passages to sample.")] = None,
    as_json: AsJson = False,
) -> int:
    """Check a version: counts, vectors, and results.

    The exit code is 1 if a check failed.

    \b
    Examples:
      sluice verify
      sluice verify documents-v2 --sample 200
    """
    async with connection_of(context).client() as client:
        with stderr.status("sampling, computing again, asking"):
            found = await client.verify(version, collection=collection, sample_size=sample)
    if as_json:
        print_json({"version": found.version, "passed": found.passed, "checks": found.checks})
    else:
        stdout.print(f"{plain(found.version)}: {'as it should be' if found.passed else 'NOT as it should be'}")
        stdout.print(checks_view(found.checks))
    return DONE if found.passed else NEEDS_A_LOOK


def checks_view(checks: Sequence[VersionCheck]) -> Table:
    """Show checks in words."""
    shown = table()
    for check in checks:
        mark = Text("ok", style="green") if check.passed else Text("FAILED", style="bold red")
        shown.add_row(mark, words(check.kind), plain(check.detail))
    return shown
