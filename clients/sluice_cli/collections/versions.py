"""`sluice collections`: versions, and the creation and deletion of collections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.text import Text

from sluice_cli.calls import DONE, Connection, confirm, plain, print_json, stdout
from sluice_client import CollectionVersion, ListedVersion, VersionState


async def show(connection: Connection, drop: str, *, as_json: bool) -> int:
    """Show all versions, after deleting one if asked, and return the exit code."""
    async with connection.client() as client:
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


async def create(connection: Connection, name: str, model: str, *, as_json: bool) -> int:
    """Create a collection, and return the exit code."""
    async with connection.client() as client:
        version = await client.create_collection(name, model=model)
    if as_json:
        print_json(version)
    else:
        stdout.print(f"{plain(name)} is {plain(version.version)}, empty, by {plain(version.model.name)}", markup=False)
    return DONE


async def delete(connection: Connection, name: str, *, sure: bool, as_json: bool) -> int:
    """Delete a collection after a confirmation, and return the exit code."""
    async with connection.client() as client:
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
    """Show versions in words, by collection: a line for the state of each, and a line for its making."""
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
