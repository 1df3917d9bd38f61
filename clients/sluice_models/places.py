"""Places of models and of what is made of them, in a folder as MODEL_DIR and MODEL_CACHE_DIR are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sluice_models.files import recorded
from sluice_models.lock import Artifact, Lock, LockedModel
from sluice_models.sources import FolderSource, Source

CHECKSUMS = "SHA256SUMS"
"""File that is in every folder that was made of a model."""
_TIMED = "-timings-"
"""Part of the names of measurements, which are each machine's own."""


def default_folder() -> Path:
    """Return the folder of models: MODEL_CACHE_DIR, or `~/.cache/sluice/models`, or the same under XDG_CACHE_HOME."""
    if named := os.environ.get("MODEL_CACHE_DIR"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sluice" / "models"


def place_of(name: str, folder: Path) -> Path | None:
    """Return the folder of a model, by its whole or its short name; None if it is not there."""
    for place in (folder / name, folder / name.rpartition("/")[2]):
        if place.is_dir():
            return place
    return None


def artifact_place(name: str, folder: Path) -> Path | None:
    """Return the folder of something that was made of a model; None if it is not there."""
    return next((place for place in (folder / name, folder / "cache" / name) if place.is_dir()), None)


def models_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and folders of the models in a folder: itself, or those below it, by organization or not."""
    if _is_model(folder):
        yield folder.resolve().name, folder
        return
    for one in sorted(folder.iterdir()):
        if not one.is_dir() or one.is_symlink() or one.name.startswith("."):
            continue
        if _is_model(one):
            yield one.name, one
        else:
            yield from (
                (f"{one.name}/{inner.name}", inner)
                for inner in sorted(one.iterdir())
                if inner.is_dir() and not inner.is_symlink() and _is_model(inner)
            )


def artifacts_in(folder: Path) -> Iterator[Artifact]:
    """Yield what was made of models in a folder, or in its `cache`."""
    for room in (folder, folder / "cache"):
        for one in sorted(room.iterdir()) if room.is_dir() else ():
            if (one / CHECKSUMS).is_file() and _TIMED not in one.name:
                yield Artifact(one.name, recorded(one))


def locked(name: str, folder: Path, before: Lock, *, source: Source | None = None, licence: str = "") -> LockedModel:
    """Record a model; what an earlier entry says of it stays, unless it is given or its files are others."""
    files = recorded(folder)
    known = before.find(name)
    if known is not None and known.files == files:
        return replace(known, source=source or known.source, licence=licence or known.licence)
    found = source or FolderSource(str(folder.resolve()))
    return LockedModel(
        known.name if known else name, files, found, licence or _licence_of(folder), known.also if known else ()
    )


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "modules.json"))


def _licence_of(folder: Path) -> str:
    """Return the licence that the front matter of a model's README names; empty if there is none."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    for line in lines[1:50] if lines[:1] == ["---"] else ():
        if line == "---":
            break
        key, _, value = line.partition(":")
        if key.strip() in ("license", "licence"):
            return value.strip()
    return ""
