"""Artifacts, made by a real child process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.chassis.errors import StartupError
from services.inference.models.artifacts import built_once, default_cache_dir

MODULE = "tests.unit.inference.models.make_artifact"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def build(tmp_path: Path, log: Path) -> Callable[..., Path]:
    def build(instruction: str = "write", needs: tuple[str, ...] = ()) -> Path:
        return built_once(
            tmp_path / "cache" / "artifact", MODULE, [str(log), instruction], needs=needs, extra="export", otherwise=""
        )

    return build


def test_an_artifact_is_made_once_and_carries_checksums_that_sha256sum_reads(
    build: Callable[..., Path], log: Path
) -> None:
    folder = build()
    assert build() == folder
    assert (folder / "content").read_text() == "42"
    assert log.read_text(encoding="utf-8") == "made\n"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "content").write_text("43"),
        lambda folder: (folder / "content").unlink(),
        lambda folder: (folder / "SHA256SUMS").write_text(""),
        lambda folder: (folder / "SHA256SUMS").write_text("no checksums"),
    ],
    ids=["changed", "gone", "no sums", "nonsense"],
)
def test_a_damaged_artifact_is_made_again(
    build: Callable[..., Path], log: Path, damage: Callable[[Path], object]
) -> None:
    damage(build())
    assert (build() / "content").read_text() == "42"
    assert log.read_text(encoding="utf-8") == "made\nmade\n"


def test_those_who_want_it_at_the_same_time_wait_for_one_of_them(build: Callable[..., Path], log: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = {future.result() for future in [pool.submit(build) for _ in range(4)]}
    assert len(folders) == 1
    assert log.read_text(encoding="utf-8") == "made\n"


def test_a_failure_says_what_the_child_said_last_and_leaves_nothing(build: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="the weights are not there"):
        build("fail")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["artifact.lock"]


def test_a_package_that_is_missing_is_named_with_the_remedy(build: Callable[..., Path]) -> None:
    with pytest.raises(StartupError, match="no_such_package is not installed") as caught:
        build(needs=("no_such_package", "json"))
    assert "the extra export" in caught.value.remedy


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot be written") as caught:
        built_once(tmp_path / "file" / "artifact", MODULE, [], needs=(), extra="", otherwise="")
    assert "MODEL_CACHE_DIR" in caught.value.remedy


def test_a_relative_cache_is_below_the_folder_that_we_run_in(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = built_once(Path("cache/artifact"), MODULE, [str(log), "write"], needs=(), extra="", otherwise="")
    assert folder == tmp_path / "cache" / "artifact"


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache_dir() == Path("/elsewhere/sluice/models")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache/sluice/models"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def test_a_start_that_is_killed_takes_its_child_with_it_and_the_next_clears_what_it_left(
    build: Callable[..., Path], log: Path, tmp_path: Path
) -> None:
    cache, child = tmp_path / "cache", Path(f"{log}.pid")
    for name in ("artifact", "another"):
        child.unlink(missing_ok=True)
        program = f"""
from pathlib import Path
from services.inference.models.artifacts import built_once
built_once(Path({str(cache / name)!r}), {MODULE!r}, [{str(log)!r}, "wait"], needs=(), extra="", otherwise="")
"""
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL) as start:
            wait_until(lambda: child.exists() and child.read_text(encoding="utf-8") != "")
            pid = int(child.read_text(encoding="utf-8"))
            start.send_signal(signal.SIGKILL)
        wait_until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]
    build()
    assert sorted(path.name for path in cache.iterdir()) == ["another.lock", "artifact", "artifact.lock"]


def test_a_process_without_a_home_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(StartupError, match="home") as caught:
        default_cache_dir()
    assert "MODEL_CACHE_DIR" in caught.value.remedy
