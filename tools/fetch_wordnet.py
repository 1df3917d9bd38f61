"""Puts Princeton WordNet where the expander finds it, without root: `python3 tools/fetch_wordnet.py`.

Where WordNet is already, nothing happens. Otherwise Debian's package `wordnet-base` is downloaded with the machine's
own apt and unpacked, not installed. Standard library only: this runs before there is a virtualenv.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.common.errors import StartupError
from services.expander.backends import WordNetThesaurus, locate_wordnet, private_folder

PACKAGE = "wordnet-base"
_TIMEOUT = 300  # seconds for each command: a slow mirror is waited for, a dead one not forever


class FetchError(Exception):
    """Why WordNet could not be had from here."""


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fetch_wordnet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FOLDER",
        help=f"put WordNet there, wherever else it may be, for WORDNET_DIR to name; default: {private_folder()}",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing if WordNet is there already")
    arguments = parser.parse_args()
    if found := _whole_wordnet(arguments.into):
        if not arguments.quiet:
            print(f"WordNet is in {found}.")
        return 0
    into: Path | None = arguments.into
    target = (into or private_folder()).absolute()
    try:
        _fetch(target)
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        print(f"WordNet could not be fetched: {error}", file=sys.stderr)
        print(
            "Install it by hand: `apt-get install wordnet-base` (Debian, Ubuntu), or unpack the database files of "
            f"WordNet 3.0 or 3.1 into {target}, or set WORDNET_DIR to where they are.\n"
            "Without it the expander serves EXPANSION_STRATEGY=multi_query.",
            file=sys.stderr,
        )
        return 1
    print(f"WordNet is now in {target}.")
    return 0


def _whole_wordnet(folder: Path | None) -> Path | None:
    """The folder, or without one the first known place, if it holds a whole WordNet."""
    try:
        found = locate_wordnet(folder)
        WordNetThesaurus(found)
    except StartupError:
        return None
    return found


def _fetch(target: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise FetchError("there is no apt-get or dpkg here")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that one rename puts everything in place at once.
    with tempfile.TemporaryDirectory(prefix=".wordnet-", dir=target.parent) as folder:
        work = Path(folder)
        unpacked = work / "unpacked"
        _run(["dpkg", "-x", str(_download(work)), str(unpacked)], work)
        database = unpacked / "usr" / "share" / "wordnet"
        shutil.copy(unpacked / "usr" / "share" / "doc" / PACKAGE / "copyright", database / "LICENSE")
        try:
            WordNetThesaurus(locate_wordnet(database))
        except StartupError as error:
            raise FetchError(f"the package is not what it should be: {error}") from error
        if target.exists():  # a damaged copy, or somebody's folder named by mistake
            if not {entry.name for entry in target.iterdir()} <= {entry.name for entry in database.iterdir()}:
                raise FetchError(f"{target} holds other files, too; empty it or name another folder")
            target.rename(work / "replaced")
        database.rename(target)


def _download(work: Path) -> Path:
    """The package file, by the machine's package lists, or by fresh ones of our own where it has none."""
    options = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    print(f"Downloading {PACKAGE} (6 MB) ...")
    try:
        _run(["apt-get", "download", *options, PACKAGE], work)
    except FetchError:
        print("This machine's package lists do not have it; reading fresh ones (a minute) ...")
        options += _private_apt(work)
        with contextlib.suppress(FetchError):  # one broken source of many; the download tells whether it matters
            _run(["apt-get", "update", *options], work)
        _run(["apt-get", "download", *options, PACKAGE], work)
    return next(work.glob("*.deb"))


def _private_apt(work: Path) -> list[str]:
    """Options that keep all that apt writes in a folder of ours; its sources and settings stay the machine's."""
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


if __name__ == "__main__":
    sys.exit(main())
