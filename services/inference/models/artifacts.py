"""Folders made once from a model and then kept: an ONNX export, int8 weights.

Made by a child process, because making needs packages that serving does not. A finished folder appears whole or not at
all, and carries the checksums of its files; if they do not match, it is made again. Where a lock says which models may
be loaded, checksums beside the files are not enough: the lock lists the folder, or this user's seal is on it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.manifest import LOCK_VARIABLE, Vouched
from services.inference.models.info import ModelSpec
from services.inference.models.layout import file_digest

CHECKSUMS = "SHA256SUMS"
_SPEC_FILE, _TOKENIZER_FILE = "spec.json", "tokenizer.json"
BUILD_SECONDS = 900
_PR_SET_PDEATHSIG = 1
_SELF = "services.inference.models.artifacts"
_SOURCE_ROOT = Path(__file__).parents[3]

_log = logs.get_logger("models")


def default_cache_dir() -> Path:
    """Return the default cache folder: `~/.cache/sluice/models`, or the same under XDG_CACHE_HOME."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sluice" / "models"
    except RuntimeError as error:
        raise StartupError(
            "this user has no home folder (HOME is not set)",
            remedy="Set HOME, or MODEL_CACHE_DIR to a folder that this process may write.",
        ) from error


def built_once(
    folder: Path,
    module: str,
    arguments: Sequence[str],
    *,
    needs: Sequence[str],
    extra: str,
    otherwise: str,
    why: str = "",
    vouched: Vouched | None = None,
) -> Path:
    """Return `folder`, whole and checked; if it is not, run `python -m module *arguments FOLDER` first.

    Processes that want the same folder at the same time wait for the one that makes it. `needs` names the packages
    that the module imports, and `extra` the extra of the services that installs them. Raises StartupError if the folder
    cannot be made: `why` says what it is needed for, `otherwise` how to do without it. `vouched` is the model of a lock
    that it is made from.
    """
    folder = folder.absolute()
    if _is_intact(folder, vouched):
        return folder
    if folder.exists():
        _log.warning("what was made from the model is not as it has to be, and is made again", artifact=folder.name)
    if missing := [package for package in needs if find_spec(package) is None]:
        raise StartupError(
            f"{why or f'{folder} is missing or damaged'}, and {' and '.join(missing)} is not installed here",
            remedy=f"Install the extra {extra} in the checkout (pip install -e '.[{extra}]'), or bring "
            f"{folder.name} from a machine that has made it to MODEL_CACHE_DIR. {otherwise}",
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(folder.parent)
        with _locked(folder.parent / f"{folder.name}.lock"):
            if not _is_intact(folder, vouched):
                _build(folder, module, arguments, otherwise, vouched)
    except OSError as error:
        raise StartupError(
            f"{folder} cannot be written: {error.strerror or error}",
            remedy="Set MODEL_CACHE_DIR to a folder that this process may write, with room for the model.",
        ) from error
    return folder


def write_facts(folder: Path, spec: ModelSpec, tokenizer: str) -> None:
    """Write next to a graph how to feed it: its spec and the content of a tokenizer.json."""
    (folder / _SPEC_FILE).write_text(json.dumps(asdict(spec)), encoding="utf-8")
    (folder / _TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")


def read_facts(folder: Path) -> tuple[ModelSpec, str]:
    """Read the spec and the tokenizer that `write_facts` wrote."""
    return ModelSpec(**json.loads((folder / _SPEC_FILE).read_text(encoding="utf-8"))), (
        folder / _TOKENIZER_FILE
    ).read_text(encoding="utf-8")


def _build(folder: Path, module: str, arguments: Sequence[str], otherwise: str, vouched: Vouched | None) -> None:
    started = time.monotonic()
    _log.info("making what this model needs, once", artifact=folder.name)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh, stale = Path(scratch, "fresh"), Path(scratch, "stale")
        fresh.mkdir()
        _run(module, [*arguments, str(fresh)], otherwise, vouched)
        files = sorted(fresh.iterdir())
        for file in files:
            file.chmod(0o644)  # some writers make their files private, but another user may serve them
        sums = "".join(f"{file_digest(file)}  {file.name}\n" for file in files)
        seal = vouched.seal(folder.name, sums) if vouched else ""
        (fresh / CHECKSUMS).write_text(seal + sums, encoding="utf-8")
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    _log.info("made", artifact=folder.name, seconds=round(time.monotonic() - started, 1))


def _run(module: str, arguments: Sequence[str], otherwise: str, vouched: Vouched | None) -> None:
    """Run a module in a child process, from the source root, so that it is the same code as here."""
    lock = {LOCK_VARIABLE: str(vouched.lock)} if vouched else {}
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and module
            [sys.executable, "-m", _SELF, str(os.getpid()), module, *arguments],
            cwd=_SOURCE_ROOT,
            env={**os.environ, **lock, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=BUILD_SECONDS,
            check=False,
        )
        problem = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        problem, failed = f"not finished after {BUILD_SECONDS} s", True
    if failed:
        raise StartupError(
            f"{module} failed: {problem}",
            remedy=f"Run `python -m {module} {' '.join(arguments[:-1])} FOLDER` to see all of it. {otherwise}",
        )


def _clear_leftovers(cache_dir: Path) -> None:
    """Remove unfinished folders of processes that were killed: those whose lock is free."""
    for scratch in cache_dir.glob(".*-*/"):
        lock = cache_dir / f"{scratch.name[1:].rpartition('-')[0]}.lock"
        if not lock.is_file():
            continue
        with lock.open("w", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(scratch, ignore_errors=True)


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that wanted this has ended")


def _is_intact(folder: Path, vouched: Vouched | None) -> bool:
    if vouched and vouched.lists(folder):
        return True
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines(keepends=True)
        sums = "".join(line for line in lines if not line.startswith("#"))
        if vouched and vouched.seal(folder.name, sums) + sums != "".join(lines):
            return False
        wanted = [line.split("  ", 1) for line in sums.splitlines()]
        return bool(wanted) and all(file_digest(folder / name) == digest for digest, name in wanted)
    except (OSError, ValueError):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + BUILD_SECONDS
    with path.open("w", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StartupError(
                        f"another process has held {path} for {BUILD_SECONDS} s",
                        remedy="Look at what it is doing (`fuser` names it), then start again.",
                    ) from None
                time.sleep(0.2)
        yield


if __name__ == "__main__":  # the child process of `_run`: PARENT MODULE ARGUMENTS
    _end_with(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
