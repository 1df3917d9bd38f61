"""Make `.venv` ready: packages, models, WordNet. `python3 tools/bootstrap.py run|dev`; quick if all is there.

`run` is enough for `make demo` and `make up`; `dev` adds what tests, lint and benches need. Either may come first.
Runs on any Python, to say if it is too old, and needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".sluice-ready"
INPUTS = ("pyproject.toml", "constraints.txt", "tools/bootstrap.py")
# On Linux PyPI's torch is the CUDA build: then "dev" takes about 6 GB.
SIZES = {
    "run": "120 MB to download, 550 MB on disk",
    "dev": "480 MB to download, 2.1 GB on disk, with a torch for CPUs",
}
SHOWN_MEGABYTES = 5


def main() -> None:
    """Install what is missing."""
    if sys.version_info < (3, 11):
        better = next((name for name in ("python3.13", "python3.12", "python3.11") if shutil.which(name)), None)
        hint = f"run `make PYTHON={better} ...`" if better else "install Python 3.11 or newer"
        sys.exit(f"Sluice needs Python 3.11+, this is {sys.version.split()[0]}: {hint}.")
    if len(sys.argv) != 2 or sys.argv[1] not in SIZES:
        sys.exit(f"usage: python3 tools/bootstrap.py {'|'.join(SIZES)}")
    wanted = sys.argv[1]
    digest = _digest()
    # "dev" holds all of "run".
    if not STAMP.exists() or STAMP.read_text(encoding="utf-8") not in {f"{name} {digest}" for name in (wanted, "dev")}:
        _install(wanted)
        _run(str(PYTHON), "tools/fetch_wordnet.py", "--quiet")
        STAMP.write_text(f"{wanted} {digest}", encoding="utf-8")
    # Models are kept outside .venv, for all checkouts.
    _run(str(PYTHON), "tools/fetch_models.py", "--quiet")


def _install(wanted: str) -> None:
    started = time.monotonic()
    _say(f"Setting up .venv for `{wanted}`: {SIZES[wanted]}.")
    if not (VENV / "bin" / "pip").exists():
        _say("  virtual environment ...")
        shutil.rmtree(VENV, ignore_errors=True)
        _make_venv()
    _say("  packages ...")
    _pip("install", "--constraint", "constraints.txt", "--editable", f".[{wanted}]")
    _say(f"  .venv takes {_megabytes(VENV):,} MB; ready after {time.monotonic() - started:.0f} s.")


def _make_venv() -> None:
    made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            f"Python's venv module does not work here:\n{made.stdout}{made.stderr}\n"
            "On Debian and Ubuntu, install it with `apt-get install python3-venv`, then run make again."
        )


def _pip(*words: str) -> None:
    """Run pip, and show the larger of its downloads while it runs."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *words, "--progress-bar", "off"]
    started, said = time.monotonic(), []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PIP_NO_WARN_CONFLICTS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as pip:
        for line in pip.stdout or ():
            said.append(line)
            found = re.match(r"\s*(?:Downloading|Using cached) (\S+?)-\d\S* \(([\d.]+) ([kMG])B\)", line)
            if found and float(found[2]) * {"k": 0.001, "M": 1, "G": 1000}[found[3]] >= SHOWN_MEGABYTES:
                _say(f"  {time.monotonic() - started:4.0f} s  {found[1]}, {found[2]} {found[3]}B")
            elif line.startswith("Installing collected packages"):
                _say(f"  {time.monotonic() - started:4.0f} s  {line.count(',') + 1} packages are being installed ...")
    if pip.returncode != 0:
        _stop(command, "".join(said[-20:]))


def _run(*command: str) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        _stop(command)


def _stop(command: list[str] | tuple[str, ...], said: str = "") -> None:
    sys.exit(f"{said}Set-up stopped: `{' '.join(command)}` failed; its message is above. Run make again to go on.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _megabytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) // 1_000_000


def _digest() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
