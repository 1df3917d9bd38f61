import os
from pathlib import Path

import pytest

from services.inference.cpu import available_cpus, bf16_instructions, int8_instructions, processor


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


def cgroup(tmp_path: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A /proc/self/cgroup with one line, and a mount with files."""
    for name, content in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    own = tmp_path / "cgroup"
    own.write_text(f"{line}\n")
    return own, tmp_path / "mount"


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(*cgroup(tmp_path, "0::/pod", {"pod/cpu.max": "max 100000\n"})) == 8


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_a_quota_is_rounded_down_but_never_to_nothing(tmp_path: Path, quota: str, expected: int) -> None:
    assert available_cpus(*cgroup(tmp_path, "0::/pod", {"pod/cpu.max": quota})) == expected


def test_the_quota_of_a_parent_binds_too(tmp_path: Path) -> None:
    files = {"pod/cpu.max": "300000 100000", "pod/app/cpu.max": "max 100000"}
    assert available_cpus(*cgroup(tmp_path, "0::/pod/app", files)) == 3


def test_a_path_of_the_host_means_the_mounted_cgroup(tmp_path: Path) -> None:
    assert available_cpus(*cgroup(tmp_path, "0::/kubepods/x", {"cpu.max": "400000 100000"})) == 4


def test_version_1_is_read_as_well(tmp_path: Path) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/cpu.cfs_period_us": "50000\n"}
    assert available_cpus(*cgroup(tmp_path, "4:cpu,cpuacct:/", files)) == 3
    files["cpu,cpuacct/cpu.cfs_quota_us"] = "-1\n"
    assert available_cpus(*cgroup(tmp_path, "4:cpu,cpuacct:/", files)) == 8


def test_this_machine_has_at_least_one() -> None:
    assert available_cpus() >= 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse4_2 avx avx2", "avx2"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "avx512_vnni"),
        ("flags\t\t: avx2 avx_vnni avx512_vnni amx_tile amx_int8", "amx_int8"),
        ("Features\t: fp asimd asimddp i8mm", "i8mm"),
        ("model name\t: an old processor", "none"),
    ],
)
def test_the_best_instructions_for_int8_are_named(tmp_path: Path, line: str, expected: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n")
    assert int8_instructions(cpuinfo) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 avx512f", "none"), ("avx512f avx512_bf16", "avx512_bf16"), ("avx512_bf16 amx_bf16 amx_int8", "amx_bf16")],
)
def test_bf16_is_known_by_the_flags_of_the_processor(tmp_path: Path, flags: str, expected: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: fpu {flags}\n")
    assert bf16_instructions(cpuinfo) == expected


def test_a_processor_is_its_model_and_its_flags_in_any_order_and_number(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    one.write_text("model name\t: AMD EPYC\nflags\t\t: fpu avx2\n")
    same.write_text("model name\t: AMD EPYC\nflags\t\t: avx2 fpu\n\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n")
    other.write_text("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert processor(one) == processor(same) != processor(other)
