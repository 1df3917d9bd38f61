"""Generates the Python stubs of all protos: `python tools/protos.py`, or `--check` to fail on drift instead."""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "gen"


def generate(into: Path) -> None:
    """Writes stubs and type stubs for every proto of ours into a folder."""
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
    """Names the files that differ between a fresh generation and what is committed."""
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


def main() -> None:
    """Regenerates or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed stubs are not up to date")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        if check:
            differing = drift(fresh)
            if differing:
                sys.exit("stubs are out of date, run `make protos`: " + ", ".join(differing))
            return
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)


if __name__ == "__main__":
    main()
