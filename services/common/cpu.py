"""How many processors are ours, which in a container is less than what the host has.

Inference runtimes size their thread pools by the host. With more threads than the cgroup's quota pays for, every one
of them stands still for the rest of each scheduling period, so they are told.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cpus(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Processors that this process can keep busy: its affinity, or its cgroup's quota where that is less.

    A quota is rounded down (2.5 gives 2), because a thread beyond the quota throttles all of them; at least 1.
    """
    affinity = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _own_cgroups(cgroup_root) if (quota := _quota(folder)) is not None]
    return max(1, int(min([affinity, *quotas])))


def _own_cgroups(root: Path) -> list[Path]:
    """The folders of our cgroup and all its parents, since a parent's quota binds too; cgroup v2, then v1."""
    folders = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path is often the host's and does not exist there; the root then is our own cgroup.
        mount = root / controllers if controllers else root
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
