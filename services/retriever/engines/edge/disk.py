"""Room on the disk of the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from services.chassis.errors import ResourceExhausted


def free_bytes(folder: Path) -> int:
    """Return the room that this user has."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def storage_full() -> ResourceExhausted:
    """Return the error of a disk without room."""
    return ResourceExhausted("Qdrant's storage is full; free some space or add some", reason="STORAGE_FULL")
