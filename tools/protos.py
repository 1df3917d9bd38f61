"""Generates the Python stubs of all protos.

`python tools/protos.py --check` fails instead if the committed stubs are out of date, or if the protos break callers
of an earlier commit (`buf breaking`).
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "gen"


def generate(into: Path) -> None:
    """Write stubs and type stubs for every proto of ours into a folder."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "sluice").rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTOS}",
            f"-I{well_known}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out={into}",
            f"--mypy_grpc_out=only_async:{into}",
            *sources,
        ]
    )
    if status != 0:
        sys.exit("protoc failed")
    for stub in into.rglob("*_pb2_grpc.py"):
        if "Stub" not in stub.read_text(encoding="utf-8"):  # a proto without a service
            stub.unlink()
            stub.with_suffix(".pyi").unlink()
    for folder in {path.parent for path in into.rglob("*_pb2.py")}:
        (folder / "__init__.py").touch()
    (into / "sluice" / "py.typed").touch()


def drift(generated: Path) -> list[str]:
    """Names of the files that differ between a fresh generation and the committed one."""
    names = {path.relative_to(generated) for path in generated.rglob("*") if path.is_file()}
    committed = {
        path.relative_to(GENERATED)
        for path in GENERATED.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return sorted(
        str(name)
        for name in names | committed
        if name not in names
        or name not in committed
        or not filecmp.cmp(generated / name, GENERATED / name, shallow=False)
    )


def check_callers() -> None:
    """Compare the protos with origin's main, or with the commit before this one if they are the same (as in CI)."""
    head = _commit("HEAD")
    base = next((commit for commit in map(_commit, ("origin/main", "HEAD~1")) if commit not in ("", head)), None)
    if base is None or not _has_contract(base):
        print("no earlier contract to compare with")
        return
    buf = Path(sys.executable).parent / "buf"
    done = subprocess.run([str(buf), "breaking", "--against", f".git#ref={base}"], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit("the protos break callers; change them additively, or start a v2 package")


def _commit(name: str) -> str:
    """The commit of a name; empty if there is none."""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").stdout.strip()


def _has_contract(commit: str) -> bool:
    """True if v1 had its final shape: it was broken once, when the shared types came, before it had users."""
    return _git("cat-file", "-e", f"{commit}:protos/sluice/type").returncode == 0


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> None:
    """Regenerate or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="fail if the stubs are out of date, or callers would break"
    )
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if check:
            differing = drift(fresh)
            if differing:
                sys.exit("stubs are out of date, run `make protos`: " + ", ".join(differing))
            check_callers()
            return
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)


if __name__ == "__main__":
    main()
