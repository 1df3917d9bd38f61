"""Places for files of tests."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

_MEMORY, _LEAST_FREE = Path("/dev/shm"), 4 * 2**30


@cache
def in_memory() -> Path | None:
    """Return a folder that is memory, where there is plenty of it: a full one would kill the process.

    Qdrant's engine makes large files, nearly empty, and waits for the disk at each: hundreds of milliseconds a shard.
    """
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _LEAST_FREE else None
