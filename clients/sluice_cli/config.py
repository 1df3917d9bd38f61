"""`sluice config`: what is in effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, Connection, plain, print_json, stdout
from sluice_client import CollectionConfig, Config, Features, StageConfig


async def config(connection: Connection, collection: str, *, as_json: bool) -> int:
    """Asks and shows; the exit code."""
    async with connection.client() as client:
        found = await client.config(collection)
    if as_json:
        print_json(found)
    else:
        stdout.print(config_view(found, connection.gateway))
    return DONE


def config_view(found: Config, gateway: str) -> RenderableType:
    """A configuration for people."""
    return Group(
        Text(f"gateway {gateway}, release {found.release}\n"),
        _features_table(found.default_features),
        _stages_table(found.stages),
        _collection_table(found.collection),
    )


def _features_table(features: Features) -> Table:
    table = _table("On by default")
    for feature in fields(features):
        value = getattr(features, feature.name)
        shown = {True: Text("on", style="green"), False: Text("off", style="dim")}
        table.add_row(feature.name, shown[value] if isinstance(value, bool) else str(value))
    return table


def _stages_table(stages: Sequence[StageConfig]) -> Table:
    table = _table("\nStages", header=True)
    for name in ("stage", "state", "address", "model", "runtime"):
        table.add_column(name, overflow="fold")
    for stage in stages:
        healthy = stage.serving and not stage.problem
        state = Text("serving", style="green") if healthy else Text(plain(stage.problem) or "not serving", style="red")
        model = f"{plain(stage.model)}{' (pseudo-embeddings, without meaning)' if stage.pseudo else ''}"
        table.add_row(stage.stage, state, stage.address, model, plain(stage.runtime))
    return table


def _collection_table(collection: CollectionConfig) -> Table:
    table = _table("\nCollection")
    table.add_row("name", plain(collection.name))
    if not collection.exists:
        table.add_row("state", Text("does not exist yet", style="yellow"))
        return table
    table.add_row("documents", f"{collection.document_count:,}")
    table.add_row("index version", plain(collection.index_version))
    table.add_row("vectors by", f"{plain(collection.model)}, {collection.dimension} dimensions")
    named = ", ".join(f"{plain(name)} ({kind})" for name, kind in sorted(collection.fields.items()))
    table.add_row("fields", named or "none")
    return table


def _table(title: str, *, header: bool = False) -> Table:
    return Table(
        title=title, title_justify="left", box=None, show_header=header, header_style="dim", padding=(0, 2, 0, 0)
    )
