"""Checks the limits of size: modules in a folder, lines in a module, lines in README.md."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from docstrings import ROOT, modules

MODULES_IN_A_FOLDER = 15
LINES_IN_A_MODULE = 450
LINES_IN_THE_README = 150


def problems() -> list[str]:
    """Folders and files that are over a limit."""
    files = [file.relative_to(ROOT) for file in modules()]
    found = [
        f"{folder}: {count} modules, at most {MODULES_IN_A_FOLDER}"
        for folder, count in Counter(file.parent for file in files if file.name != "__init__.py").items()
        if count > MODULES_IN_A_FOLDER and not _is_migration(folder)
    ]
    limits = {file: LINES_IN_A_MODULE for file in files if not _is_migration(file.parent)}
    limits[Path("README.md")] = LINES_IN_THE_README
    for file, most in limits.items():
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > most:
            found.append(f"{file}: {lines} lines, at most {most}")
    return found


def _is_migration(folder: Path) -> bool:
    return "migrations" in folder.parts


def main() -> None:
    """Print what is over a limit, and exit with 1 if anything is."""
    found = problems()
    print("\n".join(found) or "all folders and files are within their limits")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
