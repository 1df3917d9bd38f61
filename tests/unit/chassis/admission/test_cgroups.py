from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.chassis.admission.cgroups import memory_limit, resident_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limit(tmp_path: Path, line: str, files: dict[str, str]) -> int:
    """The limit by a /proc/self/cgroup with one line, and a mount with files."""
    for name, content in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    own = tmp_path / "cgroup"
    own.write_text(f"{line}\n", encoding="utf-8")
    return memory_limit(own, tmp_path / "mount")


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/pod", {"pod/memory.max": "536870912\n"}, 512 * 2**20),
        ("0::/pod", {"pod/memory.max": "max\n"}, MACHINE),
        ("0::/pod/app", {"pod/memory.max": "268435456", "pod/app/memory.max": "max"}, 256 * 2**20),
        ("0::/kubepods/x", {"memory.max": "268435456"}, 256 * 2**20),
        ("8:memory:/docker/x", {"memory/memory.limit_in_bytes": "268435456"}, 256 * 2**20),
        ("8:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("4:cpu,cpuacct:/", {"memory/memory.limit_in_bytes": "268435456"}, MACHINE),
    ],
    ids=["version 2", "no limit", "of a parent", "a path of the host", "version 1", "none in version 1", "other"],
)
def test_the_memory_limit_is_that_of_the_cgroup_and_of_its_parents(
    tmp_path: Path, line: str, files: dict[str, str], expected: int
) -> None:
    assert limit(tmp_path, line, files) == expected


def test_without_cgroups_the_limit_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none", tmp_path) == MACHINE


def test_this_process_uses_some_memory() -> None:
    assert 2**20 < resident_bytes() < MACHINE
