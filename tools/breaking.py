"""Fails if the protos break callers of what was there before: `buf breaking` against an earlier commit in git."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Compares with origin's main, or with the commit before this one where they are the same (as in CI)."""
    head = _commit("HEAD")
    base = next((commit for commit in map(_commit, ("origin/main", "HEAD~1")) if commit not in ("", head)), None)
    if base is None or not _has_protos(base):
        print("no earlier protos to compare with")
        return
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([str(buf), "breaking", "--against", f".git#ref={base}"], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit("the protos break callers; change them additively, or start a v2 package")


def _commit(name: str) -> str:
    """The commit that a name stands for; empty if there is none."""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").stdout.strip()


def _has_protos(commit: str) -> bool:
    return _git("cat-file", "-e", f"{commit}:protos/sluice").returncode == 0


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
