"""`python -m bench.speed.peers`: the same model, machine and clients, behind other servers.

Each is installed by pip into a folder of its own under build/peers, is given its best settings for a CPU, and is asked
over HTTP with connections that stay open, by clients that cost less than gRPC's.
"""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from bench.speed.cli import AsJson, Only, Quick, Rounds, examples, measure
from bench.speed.load import Endpoint
from bench.speed.measurements import INT8, Measurement, mixed_load, short_load
from bench.speed.results import Row, compared
from bench.speed.session import Session, document_calls, embed, workload
from bench.speed.stages import HOST, failure, log_of, own_environment, reserved_port, spawned
from bench.speed.workload import MODEL
from deploy.local.paths import BUILD
from services.chassis.errors import StartupError
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from sluice.embedder.v1 import embedder_pb2

FOLDER = BUILD / "peers"
CONCURRENCIES = (1, 8, 32)
SHORT = "short queries of 4 to 16 tokens"

# The versions that were found to work together. torch by its exact version, or pip takes gigabytes of CUDA along.
_INFINITY = (
    "infinity-emb[server,torch,optimum]==0.0.78",
    "torch==2.13.0",
    "transformers==4.48.3",  # the last that optimum 1.24 can speed up
    "optimum==1.24.0",  # later ones have no BetterTransformer
    "sentence-transformers==3.4.1",
    "numpy<2",  # infinity's own bound; the next two follow from it
    "datasets<4",
    "pyarrow<20",
)
_SENTENCE_TRANSFORMERS = ("sentence-transformers==6.2.0", "torch==2.13.0", "transformers==5.23.0", "uvicorn[standard]")

_HERE = Path(__file__).parent
_INSTALL_SECONDS = 1800
_START_SECONDS = 180.0
_POLL_SECONDS = 0.2
_LEAST_COSINE = 0.999  # of fp32; dynamic int8 is far below, and its row says so
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HOME": str(FOLDER / "home"),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One server with one way of computing."""

    name: str
    packages: str
    """The folder under build/peers that it runs from."""
    command: Callable[[Path, int], list[str]]
    """Command to run in that folder, for a port."""
    path: str
    payload: Callable[[str], bytes]
    vector: Callable[[bytes], bytes]
    """The float32 values in a reply."""
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class RunningPeer:
    """A peer that answers."""

    peer: Peer
    endpoint: Endpoint


def model_folder() -> Path:
    """The model that every server loads."""
    return resolve_model(MODEL, ModelKind.ENCODER, model_dir=None, cache_dir=default_cache_dir()).folder


def _infinity(name: str, options: Sequence[str], model: str | None = None, precision: str = "fp32") -> Peer:
    def command(folder: Path, port: int) -> list[str]:
        served = str(folder / model) if model else str(model_folder())
        return [
            str(folder / "venv" / "bin" / "infinity_emb"),
            *("v2", "--model-id", served, "--served-model-name", "model", "--device", "cpu", "--host", HOST),
            *("--port", str(port), "--log-level", "error", "--pooling-method", "mean", *options),
        ]

    def payload(text: str) -> bytes:
        # base64 is its cheapest form of an answer.
        return json.dumps({"model": "model", "input": text, "encoding_format": "base64"}).encode()

    def vector(reply: bytes) -> bytes:
        return base64.b64decode(json.loads(reply)["data"][0]["embedding"])

    return Peer(f"infinity {name}", "infinity", command, "/embeddings", payload, vector, precision)


INFINITY = (
    _infinity("torch", ["--engine", "torch", "--no-bettertransformer"]),
    _infinity("torch with BetterTransformer", ["--engine", "torch", "--bettertransformer"]),
    _infinity("ONNX", ["--engine", "optimum"], "model-fp32"),
    _infinity("ONNX dynamic int8", ["--engine", "optimum"], "model-int8", "dynamic int8"),
)
SENTENCE_TRANSFORMERS = Peer(
    "sentence-transformers",
    "sentence-transformers",
    lambda folder, port: [
        str(folder / "venv" / "bin" / "python"),
        str(_HERE / "peer_sentence_transformers.py"),
        *(str(model_folder()), str(port)),
    ],
    "/",
    lambda text: text.encode(),
    lambda reply: reply,
)


def _against_infinity(session: Session) -> Iterator[Row]:
    names = [f"embed/throughput_vs_infinity@c{concurrency}" for concurrency in CONCURRENCIES]
    with ExitStack() as exits:
        try:
            folder = installed("infinity", _INFINITY)
            _make_infinity_models(folder)
            peers = [exits.enter_context(_serving(peer, folder)) for peer in INFINITY]
        except StartupError as error:
            for name in names:
                yield Row(name, None, None, "texts/s", {"note": f"infinity cannot be had here: {error.message}"})
            return
        agreement = {running.peer.name: _agreement(session, running) for running in peers}
        probes = _probes(session, peers)
        fp32 = max((each for each in peers if each.peer.precision == "fp32"), key=lambda each: probes[each.peer.name])
        int8 = next(each for each in peers if each.peer.precision != "fp32")
        about = {"texts": SHORT, "probe@c32": probes, "cosine_to_ours": agreement}
        for name, concurrency in zip(names, CONCURRENCIES, strict=True):
            yield from _compare(session, name, concurrency, fp32, int8, about)
        name = "embed/mixed_throughput_vs_infinity@c32"
        sides = [
            lambda number: mixed_load(session, embed(session.stage("embedder", INT8)), number).rate(),
            lambda number: mixed_load(session, fp32.endpoint, number, fp32.peer.payload).rate(),
        ]
        rounds = session.interleaved(name, sides)
        yield compared(name, rounds, "texts/s", infinity=fp32.peer.name, ours_precision="int8")


def _compare(
    session: Session, name: str, concurrency: int, fp32: RunningPeer, int8: RunningPeer, about: Mapping[str, object]
) -> Iterator[Row]:
    sides = [
        _ours(session, concurrency, best=False),
        _theirs(session, fp32, concurrency),
        _theirs(session, int8, concurrency),
        _ours(session, concurrency, best=True),
    ]
    rounds = session.interleaved(name, sides)
    best = [(each[3], each[1]) for each in rounds]
    yield compared(name, best, "texts/s", ours_precision="int8", infinity=fp32.peer.name, **about)
    yield compared(
        f"{name} (fp32)",
        [(each[0], each[1]) for each in rounds],
        "texts/s",
        ours_precision="fp32",
        infinity=fp32.peer.name,
    )
    yield compared(
        f"{name} (its dynamic int8)",
        [(ours, each[2]) for (ours, _), each in zip(best, rounds, strict=True)],
        "texts/s",
        ours_precision="int8",
        infinity=int8.peer.name,
        note="dynamic int8: its vectors depend on their batch-mates, and it fails the quality gate",
    )


def _against_sentence_transformers(session: Session) -> Iterator[Row]:
    names = [f"embed/throughput_vs_sentence_transformers@c{concurrency}" for concurrency in CONCURRENCIES]
    with ExitStack() as exits:
        try:
            folder = installed("sentence-transformers", _SENTENCE_TRANSFORMERS)
            running = exits.enter_context(_serving(SENTENCE_TRANSFORMERS, folder))
        except StartupError as error:
            for name in names:
                yield Row(name, None, None, "texts/s", {"note": f"it cannot be had here: {error.message}"})
            return
        agreement = _agreement(session, running)
        for name, concurrency in zip(names, CONCURRENCIES, strict=True):
            sides = [_ours(session, concurrency, best=True), _theirs(session, running, concurrency)]
            yield compared(
                name,
                session.interleaved(name, sides),
                "texts/s",
                ours_precision="int8",
                texts=SHORT,
                cosine_to_ours=agreement,
                note="torch fp32 behind a minimal server",
            )


def _ours(session: Session, concurrency: int, *, best: bool) -> Callable[[int], float]:
    environment = INT8 if best else {}
    return lambda number: short_load(session, embed(session.stage("embedder", environment)), number, concurrency).rate()


def _theirs(session: Session, running: RunningPeer, concurrency: int) -> Callable[[int], float]:
    return lambda number: short_load(session, running.endpoint, number, concurrency, running.peer.payload).rate()


def _probes(session: Session, peers: Sequence[RunningPeer]) -> dict[str, float]:
    """Rate of each at short queries from 32 clients, to choose among ways of computing."""
    rounds = session.interleaved("infinity's engines", [_theirs(session, running, 32) for running in peers])
    medians = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    return {running.peer.name: round(median, 1) for running, median in zip(peers, medians, strict=True)}


def _agreement(session: Session, running: RunningPeer) -> float:
    """The least cosine between its vectors and ours, fp32: whether it really serves the same model."""
    texts = [text.text for text in workload("agreement", 0).mixed(16)]
    call = document_calls(texts, len(texts))
    report = session.load().every(embed(session.stage("embedder")), call, concurrency=1).result()
    reply = embedder_pb2.EmbedTextsResponse.FromString(report.reply)
    ours = np.frombuffer(reply.vectors, "<f4").reshape(len(texts), reply.dimension)
    theirs = np.stack([_asked(running, text) for text in texts])
    cosine = float((ours * theirs).sum(axis=1).min())
    if running.peer.precision == "fp32" and cosine < _LEAST_COSINE:
        raise RuntimeError(f"{running.peer.name} serves something else: cosine {cosine:.3f}")
    return round(cosine, 5)


def _asked(running: RunningPeer, text: str) -> NDArray[np.float32]:
    request = urllib.request.Request(
        f"http://{running.endpoint.address}{running.endpoint.path}",
        data=running.peer.payload(text),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_START_SECONDS) as reply:
        return np.frombuffer(running.peer.vector(reply.read()), "<f4")


@contextmanager
def _serving(peer: Peer, folder: Path) -> Iterator[RunningPeer]:
    """Run a peer until the context is left; StartupError where it does not start."""
    name = peer.name.replace(" ", "-")
    with reserved_port() as port, spawned(name, peer.command(folder, port), ENVIRONMENT) as child:
        running = RunningPeer(peer, Endpoint("http", f"{HOST}:{port}", peer.path))
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                _asked(running, "are you there")
                break
            except urllib.error.HTTPError as error:
                problem = f"{peer.name} answers {error.code}: {error.read().decode()[:200]}"
                raise StartupError(problem, remedy=f"Read {log_of(name)}.") from None
            except (urllib.error.URLError, ConnectionError):
                if (exit_status := child.poll()) is not None:
                    raise failure(name, exit_status) from None
                if time.monotonic() > deadline:
                    raise StartupError(
                        f"{peer.name} does not answer after {_START_SECONDS:.0f} s", remedy=f"Read {log_of(name)}."
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield running


def installed(name: str, packages: Sequence[str]) -> Path:
    """The peer's folder, with a virtual environment `venv` that holds these packages; made where it is not yet."""
    folder = FOLDER / name
    stamp = folder / "installed"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run([sys.executable, "-m", "venv", str(folder / "venv")])
    _run([str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    stamp.write_text(wanted)
    return folder


def _make_infinity_models(folder: Path) -> None:
    targets = [folder / "model-fp32", folder / "model-int8"]
    if not all((target / "config.json").exists() for target in targets):
        script = str(_HERE / "peer_infinity_models.py")
        _run([str(folder / "venv" / "bin" / "python"), script, str(model_folder()), *map(str, targets)])


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command,
            env=own_environment(ENVIRONMENT),
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StartupError(f"{command[0]} is not done after {_INSTALL_SECONDS} s", remedy="Try again.") from None
    if done.returncode != 0:
        problem = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise StartupError(problem, remedy=f"Run `{' '.join(command)}`.")


MEASUREMENTS = (
    Measurement(
        (
            *(f"embed/throughput_vs_infinity@c{concurrency}" for concurrency in CONCURRENCIES),
            "embed/mixed_throughput_vs_infinity@c32",
        ),
        _against_infinity,
    ),
    Measurement(
        tuple(f"embed/throughput_vs_sentence_transformers@c{concurrency}" for concurrency in CONCURRENCIES),
        _against_sentence_transformers,
    ),
)
EXAMPLES = """
python -m bench.speed.peers                     about 10 minutes; the first time 5 more, for 2 GB of packages
python -m bench.speed.peers --only '*infinity*'
python -m bench.speed.peers --quick
"""

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(epilog=examples(EXAMPLES))
def main(only: Only = "*", rounds: Rounds = 5, quick: Quick = False, as_json: AsJson = False) -> None:
    """Measure the embedder against infinity-emb and plain sentence-transformers, on the same model and clients.

    Installs both below build/peers. Rows go to build/bench/speed.json, over earlier ones of the same name.
    """
    measure("python -m bench.speed.peers", MEASUREMENTS, only=only, rounds=rounds, quick=quick, as_json=as_json)


if __name__ == "__main__":
    app()
