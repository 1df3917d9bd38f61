"""Lock the packages of images by hash: `python tools/packages/requirements.py` writes deploy/docker/requirements/*.txt.

Each file holds what one image, or one way of making a model, installs with `--require-hashes`, in the versions of
constraints.txt. It is made by uv, from the index that its variables name (UV_DEFAULT_INDEX). `--check` compares names
and versions with pyproject.toml and constraints.txt, and asks no index; files that are named are made alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "docker" / "requirements"
CONSTRAINTS = ROOT / "constraints.txt"
COMMAND = ROOT / "packaging" / "sluice-retrieval" / "pyproject.toml"
CLIENT = ROOT / "packaging" / "sluice-client" / "pyproject.toml"
# Extras of pyproject.toml, by file: of each stage, and of engines of model stages, which have files of their own.
EXTRAS: dict[str, tuple[str, ...]] = {
    **{spec.name: (spec.name, "signing") if spec.model else (spec.name,) for spec in STAGES},
    "retriever": ("retriever", "s3"),
    "openvino": ("embedder", "reranker", "openvino", "signing"),
    "torch": ("embedder", "reranker", "reference", "signing"),
    "int8": ("inference", "int8"),
}
# What builds the client's wheels, and writes the lists of contents.
BUILD = ("hatchling", "cyclonedx-bom")
PYTHON = "3.11"
"""Version in the images' Debian; what newer ones need is among it."""
FILES = (*EXTRAS, "client", "build")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", re.MULTILINE)
_OWN = "sluice-services"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a file is not as it has to be")
    parser.add_argument("names", nargs="*", choices=[*FILES, []], help="files; default: all")
    arguments = parser.parse_args()
    problems = []
    for name in arguments.names or FILES:
        if arguments.check:
            problems += problems_of(name, FOLDER / f"{name}.txt")
        else:
            _make(name)
    print("\n".join(problems), end="\n" if problems else "")
    return bool(problems)


def wanted(name: str) -> list[str]:
    """Requirements that a file has to satisfy, as pyproject.toml states them."""
    if name == "build":
        return list(BUILD)
    if name == "client":
        both = [
            tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"] for file in (CLIENT, COMMAND)
        ]
        return [line for lines in both for line in lines if not line.startswith("sluice")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *_expanded(extras, EXTRAS[name])]


def _expanded(extras: dict[str, list[str]], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        for line in extras[name]:
            if line.startswith(_OWN):
                yield from _expanded(extras, re.findall(r"[\w-]+", line.removeprefix(_OWN)))
            else:
                yield line


def problems_of(name: str, file: Path) -> Iterator[str]:
    """Yield what is wrong with a file: names that are missing, versions that constraints.txt does not have, no hash."""
    if not file.is_file():
        yield f"{file.relative_to(ROOT)} is missing: run `make requirements`"
        return
    text = file.read_text(encoding="utf-8")
    pins = {_plain(package): version for package, version in _PIN.findall(text)}
    known = {_plain(package): version for package, version in _PIN.findall(CONSTRAINTS.read_text(encoding="utf-8"))}
    for line in wanted(name):
        if (package := _plain(re.split(r"[^\w.-]", line)[0])) not in pins:
            yield f"{file.relative_to(ROOT)} lacks {package}: run `make requirements`"
    for package, version in pins.items():
        if known.get(package, version) != version:
            yield f"{file.relative_to(ROOT)} has {package} {version}, constraints.txt {known[package]}"
    if len(re.findall(r"==[^\n]*\\\n    --hash=sha256:", text)) != len(pins):
        yield f"{file.relative_to(ROOT)} has a package without a hash"


def _make(name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source, made = Path(scratch, "wanted.in"), Path(scratch, "made.txt")
        source.write_text("\n".join(wanted(name)) + "\n", encoding="utf-8")
        # uv takes hashes from the index; pip-compile would download every file of a release to compute them.
        words = ["--no-config", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
        place = ["--python-version", PYTHON, "--python-platform", "linux"]
        subprocess.run(
            [
                *(sys.executable, "-m", "uv", "pip", "compile", *words, *place),
                *("--constraint", str(CONSTRAINTS), "--output-file", str(made), str(source)),
            ],
            check=True,
        )
        head = f"# Packages of {name}, by hash: `make requirements` writes this file.\n"
        (FOLDER / f"{name}.txt").write_text(head + made.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{name}.txt", flush=True)


def _plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


if __name__ == "__main__":
    sys.exit(main())
