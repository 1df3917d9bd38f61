"""Puts Prometheus and promtool in place, without root: `python3 tools/fetch_prometheus.py`.

Prints the folder that holds both. What is on the PATH already is taken; otherwise Debian's package `prometheus` is
downloaded with the machine's own apt and unpacked, not installed, outside the checkout. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.debian import FetchError, unpacked

PACKAGE = "prometheus"
PROGRAMS = ("prometheus", "promtool")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fetch_prometheus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Example: "$(python3 tools/fetch_prometheus.py)/promtool" check rules deploy/prometheus/*.yml',
    )
    parser.parse_args()
    try:
        print(folder())
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        print(f"Prometheus could not be fetched: {error}", file=sys.stderr)
        print(
            "Install it by hand: `apt-get install prometheus` (Debian, Ubuntu), or put `prometheus` and `promtool` "
            "of any release from 2.42 on into a folder of the PATH.",
            file=sys.stderr,
        )
        return 1
    return 0


def folder() -> Path:
    """The folder of `prometheus` and `promtool`; fetch them if they are nowhere."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sluice", "prometheus")
    installed = shutil.which("prometheus")
    for found in (Path(installed).parent if installed else kept, kept):
        if all((found / program).exists() for program in PROGRAMS):
            return found
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that one rename puts everything in place at once.
    with tempfile.TemporaryDirectory(prefix=".prometheus-", dir=kept.parent) as work:
        programs = unpacked(PACKAGE, "19 MB", Path(work)) / "usr" / "bin"
        shutil.rmtree(kept, ignore_errors=True)
        programs.rename(kept)
    return kept


if __name__ == "__main__":
    sys.exit(main())
