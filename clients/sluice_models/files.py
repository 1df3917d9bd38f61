"""Files of a folder by size and checksum."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SHA256 = re.compile(r"[0-9a-f]{64}")


class LockError(Exception):
    """A lock that cannot be read, or a model that is not as a lock says; the message says why."""


@dataclass(frozen=True, slots=True)
class File:
    """A file, as it has to be."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and self.size >= 0 and _SHA256.fullmatch(str(self.sha256))):
            raise LockError("a file has no size, or no sha256 of 64 hexadecimal digits")

    @classmethod
    def of(cls, path: Path) -> File:
        """Read a file as it is."""
        with path.open("rb") as stream:
            return cls(os.fstat(stream.fileno()).st_size, hashlib.file_digest(stream, "sha256").hexdigest())


Files = Mapping[str, File]
"""Files by their path below a folder, with `/`."""


def check_path(path: str) -> str:
    """Return a path if it stays within its folder; raise LockError."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or not path or {"", ".", ".."} & set(parts):
        raise LockError(f"{path!r} is no path within a folder")
    return path


def listed(folder: Path) -> Iterator[str]:
    """Yield the paths of all files in a folder but those whose name, or whose folder's name, begins with a dot.

    Raises LockError for a link to a folder, which nothing that follows it by name would list.
    """
    for entry in sorted(os.scandir(folder), key=lambda found: found.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{path}" for path in listed(Path(entry.path)))
        elif entry.is_dir():
            raise LockError(f"{entry.path} is a link to a folder")
        else:
            yield entry.name


def recorded(folder: Path) -> dict[str, File]:
    """Read the files of a folder as they are."""
    return {path: File.of(folder / path) for path in listed(folder)}


def problems_of(folder: Path, files: Files, *, sizes_only: bool = False) -> list[str]:
    """Return what differs from the files that have to be there; empty if nothing does."""
    try:
        there = set(listed(folder))
    except (OSError, LockError) as error:
        return [str(error)]
    problems = [f"{path} is on no list" for path in sorted(there - files.keys())]
    for path, wanted in files.items():
        try:
            if path not in there:
                problems.append(f"{path} is missing")
            elif (folder / path).stat().st_size != wanted.size:
                problems.append(f"{path} has another size")
            elif not sizes_only and File.of(folder / path) != wanted:
                problems.append(f"{path} has another checksum")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
    return problems
