"""Load a model on an engine, the fastest one unless one is named; one protocol for all engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.choosing.choice import (
    STANDARD,
    Candidate,
    fastest,
    log_choice,
    timings_of,
)
from services.inference.cpu import available_cpus, bf16_instructions
from services.inference.manifest import vouched
from services.inference.models.artifacts import built_once
from services.inference.models.info import Backend, Device, ModelInfo, ModelKind, ModelSpec, Precision
from services.inference.models.layout import UnknownModelError, check_feeding, fingerprint_of
from services.inference.models.quality import (
    ANSWERS_FILE,
    PrecisionRefused,
    QualityGate,
    answers_of,
    problem_of_answers,
)
from services.inference.models.resolver import ResolvedModel, resolve_model
from services.inference.models.tokenization import Tokenizer

# Part of the key of the reference's answers: raise it when the probes change.
_ANSWERS_VERSION = 2

_log = logs.get_logger("models")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Options for loading a model: its engine and its files."""

    cache_dir: Path
    """Folder for models, and for what is made from them once."""
    model_dir: Path | None = None
    """Folder of models that is searched first."""
    lock: Path | None = None
    """Lock of the models that may be loaded; None lets any be loaded."""
    key: Path | None = None
    """Public key with which the lock has to be signed."""
    device: Device = "cpu"
    backend: Backend = "auto"
    """`auto` is the fastest on this processor, see `services.inference.choosing`; on cuda torch."""
    precision: Precision = "fp32"
    """With the backend `auto`, fp32 may be served in bf16, and int8 in a higher precision where that is faster."""
    threads: int = 0
    """Threads of one forward pass on cpu; 0 is `available_cpus()`."""
    gate: QualityGate = field(default_factory=QualityGate)


@dataclass(frozen=True, slots=True)
class _Engine:
    """Capabilities of a backend."""

    devices: tuple[Device, ...]
    precisions: tuple[Precision, ...]
    needs: tuple[str, ...]
    extra: str
    """Extra of the services that installs what it needs."""


_ENGINES: dict[Backend, _Engine] = {
    "onnx": _Engine(("cpu",), ("fp32",), ("onnxruntime",), "inference"),
    "openvino": _Engine(("cpu",), ("fp32", "int8", "bf16"), ("openvino",), "int8"),
    "torch": _Engine(("cuda", "cpu"), ("fp32", "fp16", "bf16"), ("torch", "sentence_transformers"), "reference"),
}


class Runtime(Protocol):
    """A loaded model that turns token ids into rows of numbers. All calls block and are thread safe."""

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""

    @property
    def spec(self) -> ModelSpec:
        """Facts for feeding it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    def width(self, token_count: int) -> int:
        """Return the tokens that a row of this length is padded to at least: its cost."""

    def warm_up(self, batch_tokens: int) -> None:
        """Prepare for batches of up to this many padded tokens. Takes seconds."""

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Compute one pass over `ids`, padded to the widest: [rows, dimension], or [rows, tokens, dimension].

        `type_ids` unset means all 0. `attended` is, of each row, the number of tokens from its start that all of its
        tokens attend to; unset means all of them.
        """


def load_runtime(name: str, kind: ModelKind, options: ModelOptions) -> Runtime:
    """Find a model (see `resolve_model`) and load it: minutes if it has to be fetched or made first.

    With the backend `auto`, engines are timed at the first start, and int8 that fails its quality gate on this
    processor is left out. Raises StartupError.
    """
    chosen = _allowed(options.backend, options.device, options.precision)
    threads = options.threads or available_cpus()
    cache_dir = options.cache_dir.expanduser()
    model_dir = options.model_dir and options.model_dir.expanduser()
    model = resolve_model(name, kind, model_dir=model_dir, cache_dir=cache_dir)
    model = replace(model, vouched=vouched(model.name, model.folder, options.lock, options.key))
    try:
        check_feeding(model.folder, kind)
        gate: QualityGate | None = options.gate
        if options.backend == "auto" and options.device == "cpu" and options.precision in {"fp32", "int8"}:
            chosen = _fastest(model, options, threads=threads, cache_dir=cache_dir)
            gate = None  # it was passed before the engines were timed
        runtime = open_runtime(model, *chosen, device=options.device, threads=threads, cache_dir=cache_dir, gate=gate)
        expected = _expected_answers(model, runtime.info.fingerprint, cache_dir)
        problem = problem_of_answers(answers_of(runtime, kind), runtime.info, expected)
    except UnknownModelError as error:
        raise StartupError(
            f"{model.name} in {model.folder} cannot be served: {error}",
            remedy="Choose another model; no engine here computes this one as sentence-transformers does.",
        ) from error
    except StartupError:
        raise
    except Exception as error:  # each engine has many classes of errors, without a common one
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if problem:
        raise StartupError(
            f"{model.name} in {model.folder} cannot be computed by {chosen.backend}: {problem}",
            remedy="Bring a fresh copy of the model's folder, with files that this process may read; if that fails as "
            "well, choose another model.",
        )
    return runtime


def open_runtime(
    model: ResolvedModel,
    backend: Backend,
    precision: Precision,
    *,
    threads: int,
    cache_dir: Path,
    device: Device = "cpu",
    gate: QualityGate | None = None,
) -> Runtime:
    """Load a model on an engine, of which only the one in use is imported; int8 has to pass the gate, if any."""
    if backend == "onnx":
        from services.inference.models.onnx import OnnxRuntime  # noqa: PLC0415  see above

        return OnnxRuntime.load(model, cache_dir=cache_dir, threads=threads)
    if backend == "openvino":
        from services.inference.models.openvino import OpenVinoRuntime  # noqa: PLC0415  see above

        return OpenVinoRuntime.load(model, precision, cache_dir=cache_dir, threads=threads, gate=gate)
    from services.inference.models.reference import TorchRuntime  # noqa: PLC0415  see above

    return TorchRuntime(model, device=device, precision=precision, threads=threads)


def _fastest(model: ResolvedModel, options: ModelOptions, *, threads: int, cache_dir: Path) -> Candidate:
    """Choose the engine that serves on cpu where the operator named none."""
    candidates = [STANDARD]
    if _installed("openvino"):
        candidates.append(Candidate("openvino", "fp32"))
        if bf16_instructions() != "none":
            candidates.append(Candidate("openvino", "bf16"))
    int8 = [] if options.precision == "fp32" else _passing_int8(model, options.gate, cache_dir=cache_dir)
    candidates += int8
    if candidates == [STANDARD]:
        return STANDARD
    try:
        timings = timings_of(
            model, candidates, fingerprint=fingerprint_of(model.folder), cache_dir=cache_dir, threads=threads
        )
    except StartupError as error:
        chosen = next(iter(int8), STANDARD)
        _log.warning(
            "engines cannot be timed", problem=error.message, backend=chosen.backend, precision=chosen.precision
        )
        return chosen
    chosen = fastest(timings)
    log_choice(chosen, timings)
    return chosen


def _passing_int8(model: ResolvedModel, gate: QualityGate, *, cache_dir: Path) -> list[Candidate]:
    """List the engines in int8 that keep the quality; they are made first, for minutes. Raises StartupError."""
    from services.inference.models.openvino import int8_folder  # noqa: PLC0415  see `open_runtime`

    try:
        int8_folder(model, cache_dir=cache_dir, gate=gate)
    except PrecisionRefused as refusal:
        _log.warning("int8 is refused on this processor", problem=refusal.message)
        return []
    return [Candidate("openvino", "int8")]


def _expected_answers(model: ResolvedModel, fingerprint: str, cache_dir: Path) -> NDArray[np.float32] | None:
    """Return what sentence-transformers answers, computed once where it is installed; None if it is not known."""
    try:
        folder = built_once(
            cache_dir / model.artifact("answers", _ANSWERS_VERSION, fingerprint),
            "services.inference.models.reference",
            [model.kind, str(model.folder)],
            needs=("torch", "sentence_transformers"),
            extra="reference",
            otherwise="",
            vouched=model.vouched,
        )
    except StartupError as error:
        _log.info("the model's output is not compared with sentence-transformers", reason=error.message)
        return None
    answers: NDArray[np.float32] = np.load(folder / ANSWERS_FILE)
    return answers


def _allowed(backend: Backend, device: Device, precision: Precision) -> Candidate:
    """Return the engine for this device and precision, of `auto` the first one; raise StartupError if there is none."""
    able = [name for name, engine in _ENGINES.items() if device in engine.devices and precision in engine.precisions]
    if not able:
        raise StartupError(
            f"nothing computes {precision} on {device}", remedy="Set the precision to fp32, or on cuda to fp16 or bf16."
        )
    if backend == "auto":
        backend = next(filter(_installed, able), able[0])
    if backend not in able:
        raise StartupError(
            f"the {backend} backend does not compute {precision} on {device}",
            remedy=f"Set the backend to auto, which is {able[0]} here.",
        )
    engine = _ENGINES[backend]
    if missing := [package for package in engine.needs if find_spec(package) is None]:
        raise StartupError(
            f"the {backend} backend needs {' and '.join(missing)}",
            remedy=f"Install the extra {engine.extra} in the checkout: pip install -e '.[{engine.extra}]'.",
        )
    return Candidate(backend, precision)


def _installed(backend: Backend) -> bool:
    return all(find_spec(package) is not None for package in _ENGINES[backend].needs)
