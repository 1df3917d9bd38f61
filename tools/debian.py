"""Debian packages, unpacked without root by the machine's own apt. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_TIMEOUT = 300  # seconds for each command


class FetchError(Exception):
    """A package cannot be fetched."""


def unpacked(package: str, size: str, work: Path) -> Path:
    """Download a package and unpack it below `work`, without installing it; return the folder.

    Raises FetchError, OSError or subprocess.SubprocessError.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FetchError("there is no apt-get or dpkg here")
    folder = work / "unpacked"
    _run(["dpkg", "-x", str(_download(package, size, work)), str(folder)], work)
    return folder


def _download(package: str, size: str, work: Path) -> Path:
    """Return the package file, by the machine's package lists or, if they lack it, by fresh private ones."""
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    print(f"Downloading {package} ({size}) ...", file=sys.stderr)
    try:
        _run(["apt-get", "download", *options, package], work)
    except FetchError:
        print("This machine's package lists do not have it; reading fresh ones (a minute) ...", file=sys.stderr)
        options += _private_apt(work)
        with contextlib.suppress(FetchError):  # one broken source of several; the download fails if it matters
            _run(["apt-get", "update", *options], work)
        _run(["apt-get", "download", *options, package], work)
    return next(work.glob("*.deb"))


def _private_apt(work: Path) -> list[str]:
    """Return options that keep all that apt writes below `work`; sources and settings stay the machine's."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    settings = {
        "Dir::State": work / "state",
        "Dir::State::Lists": work / "state" / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": work / "cache",
        "Debug::NoLocking": 1,
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(command: list[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise FetchError(f"`{' '.join(command[:2])}` failed: {said[-1] if said else done.returncode}")
