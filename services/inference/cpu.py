"""How many processors are ours, which in a container is less than what the host has.

Inference runtimes size their thread pools by the host. With more threads than the cgroup's quota pays for, every one
of them stands still for the rest of each scheduling period, so they are told.
"""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus(cgroups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process can keep busy: its affinity, or its cgroup's quota where that is less.

    A quota is rounded down (2.5 gives 2), because a thread beyond it throttles all of them; at least 1.
    """
    quotas = [quota for folder in _own_cgroups(cgroups, root) if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _own_cgroups(cgroups: Path, root: Path) -> list[Path]:
    """The folders of our cgroup and of all its parents, whose quotas bind too; of version 2 or 1."""
    folders: list[Path] = []
    for line in cgroups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path is often the host's and does not exist there; the mount then is our own cgroup.
        mount = root / controllers
        own = mount / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(mount)]
    return folders


def _quota(folder: Path) -> float | None:
    """The processors' worth of time that one cgroup may use, or None where it has no limit of its own."""
    try:
        if (unified := folder / "cpu.max").exists():
            quota, period = unified.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return None if quota.strip() in {"max", "-1"} else int(quota) / int(period)
