"""`sluice collections`: which versions there are, and how they are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from sluice_cli.calls import DONE, Connection, plain, print_json, stdout
from sluice_client import CollectionVersion, VersionState


async def collections(connection: Connection, drop: str, *, as_json: bool) -> int:
    """Shows all versions, or drops one first; the exit code."""
    async with connection.client() as client:
        if drop:
            await client.drop_version(drop)
        versions = await client.collections()
    if as_json:
        print_json([version_json(version) for version in versions])
        return DONE
    if drop:
        stdout.print(f"{plain(drop)} dropped", markup=False)
    stdout.print(versions_view(versions) if versions else "no collections yet; `sluice index` makes one")
    return DONE


def version_json(version: CollectionVersion) -> dict[str, object]:
    """A version for machines."""
    fields = {name: getattr(version, name) for name in CollectionVersion.__slots__}
    return {**fields, "created": version.created.isoformat()}


def versions_view(versions: Sequence[CollectionVersion]) -> Table:
    """Versions for people, by collection."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("collection", "version", "state", "documents", "model", "words", "source", "created"):
        table.add_column(name, overflow="fold", justify="right" if name == "documents" else "left")
    last = ""
    for version in versions:
        served = "" if version.model_served else " (not served)"
        table.add_row(
            "" if version.collection == last else plain(version.collection),
            plain(version.version),
            _state(version),
            f"{version.document_count:,}",
            f"{plain(version.model)}, {version.dimension}, {plain(version.precision)}{served}",
            plain(version.lexical_settings),
            plain(version.source),
            f"{version.created.astimezone():%Y-%m-%d %H:%M}",
        )
        last = version.collection
    return table


def _state(version: CollectionVersion) -> Text:
    if version.live:
        building = f", building {plain(version.building_version)}" if version.building_version else ""
        return Text(f"live{building}", style="green")
    if version.state is VersionState.BUILDING:
        return Text("building", style="yellow")
    return Text(version.state, style="dim")
