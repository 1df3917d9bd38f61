"""`sluice tune`: shows and changes how a collection is kept and searched."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sluice_cli.calls import DONE, command, connection_of, plain, print_json, stdout
from sluice_cli.options import AsJson
from sluice_client import Layout, Quantization

app = typer.Typer(rich_markup_mode=None)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="What is to change, as quantization=int8; none shows what is."),
]
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}


@app.command()
@command
async def tune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="A collection, or one of its versions.")],
    settings: Settings = None,
    as_json: AsJson = False,
) -> int:
    """Show how a collection is kept and searched, or change it.

    It may be read and written meanwhile.

    Shards are fixed once a version is made; reindexing keeps the layout. Names: shards, replicas, write_consistency,
    read_consistency, read_fanout, vectors_on_disk, payload_on_disk, hnsw_m, hnsw_ef_construct, hnsw_ef, quantization
    (none, int8, binary, turbo), rescore, oversampling, read_rate, write_rate, most_passages, tenant, tenant_required.

    \b
    Examples:
      sluice tune papers
      sluice tune papers quantization=int8 oversampling=3
      sluice tune papers replicas=2 write_consistency=2
      sluice tune papers tenant=customer tenant_required=yes
    """
    changes = layout_of(settings or [])
    async with connection_of(context).client() as client:
        version = await client.tune(changes, collection=name)
    if as_json:
        print_json({"version": version.version, "layout": version.layout})
    else:
        stdout.print(f"{plain(version.version)}: {plain(layout_text(version.layout)) or 'as the engine does it'}")
    return DONE


def layout_of(settings: Sequence[str]) -> Layout:
    """Read settings of the form NAME=VALUE. BadParameter names what is wrong, and what there is."""
    hints = typing.get_type_hints(Layout)
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in hints:
            names = ", ".join(field.name for field in dataclasses.fields(Layout))
            raise typer.BadParameter(f"{setting!r} is not NAME=VALUE; names: {names}", param_hint="NAME=VALUE")
        kind = typing.get_args(hints[name])[0]
        given[name] = _read(name, kind, text)
    return Layout(**given)


def layout_text(layout: Layout) -> str:
    """Write what differs from the defaults of a retriever."""
    return ", ".join(
        f"{field.name}={str(value).lower() if isinstance(value, bool) else value}"
        for field in dataclasses.fields(Layout)
        if (value := getattr(layout, field.name)) not in (None, _DEFAULTS.get(field.name, 0), "")
    )


_DEFAULTS: dict[str, Any] = {
    "replicas": 1,
    "write_consistency": 1,
    "payload_on_disk": True,
    "hnsw_m": 16,
    "hnsw_ef_construct": 100,
    "quantization": Quantization.NONE,
    "rescore": True,
    "oversampling": 2.0,
}


def _read(name: str, kind: Any, text: str) -> Any:
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if kind is Quantization:
            return Quantization(text.lower())
        return kind(text)
    except (ValueError, KeyError):
        wanted = {bool: "yes or no", int: "a whole number", float: "a number"}.get(kind, "none, int8, binary or turbo")
        raise typer.BadParameter(f"{name}={text!r} is not {wanted}", param_hint="NAME=VALUE") from None
