"""Scratch copy of the repository, in which a recipe is applied, counted and checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Scratch:
    """Copy of all files that git does not ignore, under git of its own so that changes can be counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        for name in filter(None, listed):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self._git("init", "--quiet")
        self._git("add", "--all")
        self._git("-c", "user.name=recipe", "-c", "user.email=recipe@localhost", "commit", "--quiet", "-m", "before")

    def insert(self, name: str, after: str, text: str) -> None:
        """Insert text after a piece of a file that occurs exactly once."""
        file = self.folder / name
        content = file.read_text()
        assert content.count(after) == 1, f"{name} has {content.count(after)} times {after!r}"
        file.write_text(content.replace(after, after + text))

    def copy(self, source: Path, replacements: dict[str, str], target: str) -> None:
        """Copy a folder, and replace words in its files."""
        for file in filter(Path.is_file, source.rglob("*")):
            text = file.read_text()
            for old, new in replacements.items():
                text = text.replace(old, new)
            into = self.folder / target / file.relative_to(source)
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_text(text)

    def run(self, *command: str) -> None:
        """Run a program of the virtual environment in the copy; fail with its output."""
        binaries = Path(sys.executable).parent
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(self.folder / part) for part in ("", "protos/gen", "clients")),
        }
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-6000:]}{done.stderr[-6000:]}"

    def changed(self) -> list[str]:
        """Return the files that were added or changed since the copy."""
        self._git("add", "--all")
        return self._git("diff", "--cached", "--name-only").splitlines()

    def _git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.folder, capture_output=True, text=True, check=True).stdout
