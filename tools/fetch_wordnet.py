"""Put Princeton WordNet where nltk finds it, without root: `python tools/fetch_wordnet.py`.

Downloads Debian's package `wordnet-base` with the machine's own apt and unpacks it; adds the table `lexnames`, which
nltk wants and the package lacks. Does nothing if WordNet is there. Run it with the Python that the expander runs with.
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
from services.expander.lexicon import WordNetLexicon, locate_wordnet
from tools.debian import FetchError, unpacked

PACKAGE = "wordnet-base"
TARGET = Path(sys.prefix, "nltk_data", "corpora", "wordnet")
# lexnames(5WN): lexicographer files by part of speech, in the order of their numbers.
LEXNAMES = (
    ("adj", "all pert"),
    ("adv", "all"),
    (
        "noun",
        "Tops act animal artifact attribute body cognition communication event feeling food group location motive "
        "object person phenomenon plant possession process quantity relation shape state substance time",
    ),
    (
        "verb",
        "body change cognition communication competition consumption contact creation emotion motion perception "
        "possession social stative weather",
    ),
    ("adj", "ppl"),
)
PARTS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def main() -> int:
    """Fetch WordNet unless it is there; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="fetch_wordnet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help=f"put it there, for WORDNET_DIR to name; default: {TARGET}"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing if WordNet is there already")
    arguments = parser.parse_args()
    if found := _whole_wordnet(arguments.into):
        if not arguments.quiet:
            print(f"WordNet is in {found}.")
        return 0
    into: Path | None = arguments.into
    target = (into or TARGET).absolute()
    try:
        _fetch(target)
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        print(f"WordNet could not be fetched: {error}", file=sys.stderr)
        print(
            """Get it by hand: `python -c 'import nltk; nltk.download("wordnet")'`, unpacked, or set WORDNET_DIR.\n"""
            "Without it the expander serves EXPANSION_STRATEGY=multi_query.",
            file=sys.stderr,
        )
        return 1
    print(f"WordNet is now in {target}.")
    return 0


def _whole_wordnet(folder: Path | None) -> Path | None:
    """Return the folder, or the first known one, if it holds a whole WordNet."""
    try:
        found = locate_wordnet(folder)
        WordNetLexicon(found)
    except StartupError:
        return None
    return found


def lexnames() -> str:
    """Return lexnames(5WN): number, name and part of speech of the 45 lexicographer files."""
    names = [f"{part}.{name}" for part, names in LEXNAMES for name in names.split()]
    return "".join(f"{number:02d}\t{name}\t{PARTS[name.split('.')[0]]}\n" for number, name in enumerate(names))


def _fetch(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's parent, so that one rename puts everything in place at once.
    with tempfile.TemporaryDirectory(prefix=".wordnet-", dir=target.parent) as folder:
        work = Path(folder)
        package = unpacked(PACKAGE, "6 MB", work)
        database = package / "usr" / "share" / "wordnet"
        shutil.copy(package / "usr" / "share" / "doc" / PACKAGE / "copyright", database / "LICENSE")
        (database / "lexnames").write_text(lexnames(), encoding="utf-8")
        try:
            WordNetLexicon(database)
        except StartupError as error:
            raise FetchError(f"the package is damaged: {error}") from error
        if target.exists():  # a damaged copy, or another folder named by mistake
            if not {entry.name for entry in target.iterdir()} <= {entry.name for entry in database.iterdir()}:
                raise FetchError(f"{target} holds other files, too; empty it or name another folder")
            target.rename(work / "replaced")
        database.rename(target)


if __name__ == "__main__":
    sys.exit(main())
