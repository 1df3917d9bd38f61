"""A data folder from outside: the file that names its versions, their notes and aliases; room on its disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.chassis.errors import ResourceExhausted
from services.retriever.store import Notes

FILE = "catalog.json"
FOLDER = "versions"
_FORMAT = 1


class CatalogueLost(Exception):
    """There is data, but no catalogue of it that can be read."""


class CatalogueFile:
    """Versions with their notes, and aliases, in `FOLDER/catalog.json`; what is returned from a change is on disk.

    The file is never half written: another is written beside it, and takes its place. If that fails, the change has
    not happened.
    """

    def __init__(self, folder: Path) -> None:
        """Read the file, or write an empty one in an empty folder; CatalogueLost where it does not fit the folder."""
        self._path = folder / FILE
        stored = {path.name for path in (folder / FOLDER).iterdir()} if (folder / FOLDER).is_dir() else set()
        if not self._path.exists():
            if stored:
                names = ", ".join(sorted(stored))
                raise CatalogueLost(f"{self._path} is missing, and {folder} holds the passages of {names}")
            self._save({}, {})
            return
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self.versions: Mapping[str, Notes] = {str(name): dict(notes) for name, notes in kept["versions"].items()}
            self.aliases: Mapping[str, str] = {str(alias): str(name) for alias, name in kept["aliases"].items()}
            known = kept["format"] == _FORMAT
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CatalogueLost(f"{self._path} cannot be read: {error}") from error
        if not known:
            raise CatalogueLost(f"{self._path} cannot be read: a later release wrote it")

    def add(self, version: str, notes: Notes) -> None:
        """Name a version."""
        self._save({**self.versions, version: dict(notes)}, self.aliases)

    def note(self, version: str, notes: Notes) -> None:
        """Merge notes into those of a version."""
        self.add(version, {**self.versions[version], **notes})

    def remove(self, version: str) -> None:
        """Forget a version and its aliases."""
        self._save(
            {name: notes for name, notes in self.versions.items() if name != version},
            {alias: target for alias, target in self.aliases.items() if target != version},
        )

    def point(self, alias: str, version: str) -> None:
        """Make an alias, or move it."""
        self._save(self.versions, {**self.aliases, alias: version})

    def _save(self, versions: Mapping[str, Notes], aliases: Mapping[str, str]) -> None:
        content: dict[str, Any] = {"format": _FORMAT, "versions": versions, "aliases": aliases}
        replace_file(self._path, json.dumps(content, indent=1))
        self.versions, self.aliases = versions, aliases


def replace_file(path: Path, text: str) -> None:
    """Write a file durably: at any moment there is the one before or this one, whole."""
    beside = path.with_name(f"{path.name}.partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Return the room that this user has."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def storage_full() -> ResourceExhausted:
    """Return the error of a disk without room."""
    return ResourceExhausted("Qdrant's storage is full; free some space or add some", reason="STORAGE_FULL")
