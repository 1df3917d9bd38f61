"""Processors of this process: how many it may use, and what they can do.

In a container that is less than what the host has, but inference runtimes size their thread pools by the host. With
more threads than the cgroup's quota pays for, all of them are throttled for the rest of each scheduling period.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from services.chassis.admission.cgroups import CGROUPS, MOUNT, own_cgroups

# Of x86 and ARM, the best first.
_INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "i8mm", "asimddp")
# Of x86 alone: elsewhere it was never tried.
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
_CPUINFO = Path("/proc/cpuinfo")


def available_cpus(cgroups: Path = CGROUPS, root: Path = MOUNT) -> int:
    """Number of processors that this process can keep busy: its affinity, or its cgroup's quota if that is less.

    A quota is rounded down (2.5 gives 2), because a thread beyond it throttles all of them; at least 1.
    """
    quotas = [quota for folder in own_cgroups("cpu", cgroups, root) if (quota := _quota(folder)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def int8_instructions(cpuinfo: Path = _CPUINFO) -> str:
    """The best instructions of this processor for int8, as in `avx512_vnni`; they decide how exact it is.

    Without dot products of int8 in hardware, sums saturate at 16 bits, and some models lose too much.
    """
    flags = _flags(cpuinfo)
    return next((known for known in _INT8_INSTRUCTIONS if known in flags), "none")


def bf16_instructions(cpuinfo: Path = _CPUINFO) -> str:
    """The best instructions of this processor for bf16, as in `amx_bf16`; `none` where it would be computed in fp32."""
    flags = _flags(cpuinfo)
    return next((known for known in _BF16_INSTRUCTIONS if known in flags), "none")


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """Model and instructions of this processor: where they are the same, the same engine is the fastest."""
    models = re.findall(r"^(?:model name|CPU part)\s*:\s*(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    return " ".join([platform.machine(), *sorted(set(models)), *sorted(set(_flags(cpuinfo)))])


def _flags(cpuinfo: Path) -> list[str]:
    return " ".join(
        re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    ).split()


def _quota(folder: Path) -> float | None:
    """Processors that one cgroup may use, or None if it has no limit of its own."""
    try:
        if (unified := folder / "cpu.max").exists():
            quota, period = unified.read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
    except OSError:
        return None
    return None if quota.strip() in {"max", "-1"} else int(quota) / int(period)
