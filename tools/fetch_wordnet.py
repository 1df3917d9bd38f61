"""Puts Princeton WordNet where the expander finds it, without root: `python3 tools/fetch_wordnet.py`.

Where WordNet is already, nothing happens. Otherwise Debian's package `wordnet-base` is downloaded with the machine's
own apt and unpacked, not installed. Standard library only: this runs before there is a virtualenv.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.chassis.errors import StartupError
from services.expander.backends import WordNetThesaurus, locate_wordnet, private_folder
from tools.debian import FetchError, unpacked

PACKAGE = "wordnet-base"


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
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that one rename puts everything in place at once.
    with tempfile.TemporaryDirectory(prefix=".wordnet-", dir=target.parent) as folder:
        work = Path(folder)
        package = unpacked(PACKAGE, "6 MB", work)
        database = package / "usr" / "share" / "wordnet"
        shutil.copy(package / "usr" / "share" / "doc" / PACKAGE / "copyright", database / "LICENSE")
        try:
            WordNetThesaurus(locate_wordnet(database))
        except StartupError as error:
            raise FetchError(f"the package is not what it should be: {error}") from error
        if target.exists():  # a damaged copy, or somebody's folder named by mistake
            if not {entry.name for entry in target.iterdir()} <= {entry.name for entry in database.iterdir()}:
                raise FetchError(f"{target} holds other files, too; empty it or name another folder")
            target.rename(work / "replaced")
        database.rename(target)


if __name__ == "__main__":
    sys.exit(main())
