"""`sluice config`: shows the configuration in effect."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout, table
from sluice_cli.options import AsJson, Collection
from sluice_client import CollectionVersion, Config, Features, ModelInfo, StageConfig, flag_values

app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def config(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> int:
    """Show the default flags, the stages with their models, and the index.

    \b
    Examples:
      sluice config
      sluice config --collection papers --json
    """
    connection = connection_of(context)
    async with connection.client() as client:
        found = await client.config(collection)
    if as_json:
        print_json(found)
    else:
        stdout.print(config_view(found, connection.gateway))
    return DONE


def config_view(found: Config, gateway: str) -> RenderableType:
    """Show a configuration in words."""
    return Group(
        Text(plain(f"gateway {gateway}, release {found.release}") + "\n"),
        _features_table(found.default_features),
        _stages_table(found.stages),
        _collection_table(found.collection),
    )


def runtime_of(model: ModelInfo | None) -> str:
    """Describe how a model computes: "onnx fp32 on cpu"."""
    return plain(f"{model.backend} {model.precision} on {model.device}") if model else ""


def _features_table(features: Features) -> Table:
    shown = table(title="On by default")
    styles = {True: Text("on", style="green"), False: Text("off", style="dim")}
    for name, value in flag_values(features).items():
        shown.add_row(name, styles[value] if isinstance(value, bool) else str(value))
    return shown


def _stages_table(stages: Sequence[StageConfig]) -> Table:
    shown = table("stage", "state", "address", "model", "runtime", title="\nStages")
    for stage in stages:
        healthy = stage.serving and not stage.problem
        state = Text("serving", style="green") if healthy else Text(plain(stage.problem) or "not serving", style="red")
        model = plain(stage.model.name) if stage.model else ""
        pseudo = " (pseudo-embeddings, without meaning)" if stage.model and stage.model.pseudo else ""
        shown.add_row(stage.stage, state, stage.address, f"{model}{pseudo}", runtime_of(stage.model))
        if stage.token_model is not None:
            tokens = f"token vectors: {stage.token_model.name}"
            shown.add_row("", "", "", plain(tokens), runtime_of(stage.token_model))
    return shown


def _collection_table(version: CollectionVersion | None) -> Table:
    shown = table(title="\nCollection")
    if version is None:
        shown.add_row("state", Text("does not exist yet", style="yellow"))
        return shown
    shown.add_row("name", plain(version.collection))
    shown.add_row("passages", f"{version.passage_count:,}")
    shown.add_row("index version", plain(version.version))
    shown.add_row("vectors by", f"{plain(version.model.name)}, {version.model.dimension} dimensions")
    if version.token_model is not None:
        tokens = version.token_model
        shown.add_row("token vectors by", f"{plain(tokens.name)}, {tokens.dimension} dimensions")
    named = ", ".join(f"{plain(name)} ({kind})" for name, kind in sorted(version.fields.items()))
    shown.add_row("fields", named or "none")
    return shown
