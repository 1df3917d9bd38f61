"""The cgroups of this process, versions 1 and 2, and the memory that they grant."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def own_cgroups(controller: str, cgroups: Path = CGROUPS, root: Path = MOUNT) -> list[Path]:
    """Folders of our cgroup with a controller and of all its parents, whose limits bind too."""
    folders: list[Path] = []
    for line in cgroups.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # In a container the path is often the host's and does not exist; the mount is then our own cgroup.
        mount = root / controllers
        own = mount / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(mount)]
    return folders


def memory_limit(cgroups: Path = CGROUPS, root: Path = MOUNT) -> int:
    """Bytes that this process may use: what its cgroups grant, or the machine's memory if that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        folders = own_cgroups("memory", cgroups, root)
    except OSError:
        folders = []
    limits = [_limit(folder / name) for folder in folders for name in ("memory.max", "memory.limit_in_bytes")]
    return min([machine, *filter(None, limits)])


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Memory that this process uses now."""
    return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
