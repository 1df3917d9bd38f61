"""Fails if the protos break callers of the last landed version: `buf breaking` against main in git."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Compares with the newest commit that is on main already: origin's main if there is one, else main's parent."""
    base = next((name for name in ("origin/main", "main~1") if _has_protos(name)), None)
    if base is None:
        print("no earlier protos to compare with")
        return
    against = f".git#ref={_commit(base)}"
    done = subprocess.run(
        [str(Path(sys.executable).parent / "buf"), "breaking", "--against", against], cwd=ROOT, check=False
    )
    if done.returncode != 0:
        sys.exit("the protos break callers; change them additively, or start a v2 package")


def _has_protos(name: str) -> bool:
    return (
        subprocess.run(
            ["git", "cat-file", "-e", f"{name}:protos/sluice"], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )


def _commit(name: str) -> str:
    return subprocess.run(
        ["git", "rev-parse", name], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
