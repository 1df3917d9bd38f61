"""The engines that a model can run on, behind one door for both model stages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from services.common.cpu import available_cpus
from services.common.errors import StartupError
from services.common.models.info import ModelInfo, ModelKind, ModelSpec
from services.common.models.resolver import resolve_model
from services.common.models.tokenization import Tokenizer

Device = Literal["cpu", "cuda"]
Backend = Literal["auto", "onnx", "torch"]


class Runtime(Protocol):
    """A loaded model that turns token ids into rows of numbers. All calls block and are thread safe."""

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""

    @property
    def spec(self) -> ModelSpec:
        """How to feed it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    def run(self, ids: Sequence[list[int]], type_ids: Sequence[list[int]] | None = None) -> NDArray[np.float32]:
        """One forward pass over `ids`, padded to the longest: [rows, dimension]. `type_ids` unset means all 0."""


def load_runtime(
    name: str,
    kind: ModelKind,
    *,
    device: Device,
    backend: Backend,
    model_dir: Path | None,
    cache_dir: Path,
    threads: int,
) -> Runtime:
    """Finds a model (see `resolve_model`) and loads it: minutes where it has to be fetched or exported first.

    `auto` is onnx on cpu and torch on cuda. `threads` is that of one forward pass on cpu; 0 is `available_cpus()`.
    Raises StartupError.
    """
    if backend == "auto":
        backend = "onnx" if device == "cpu" else "torch"
    if backend == "onnx" and device != "cpu":
        raise StartupError(
            f"the onnx backend runs on cpu, not on {device}",
            remedy="Set the backend to torch, or to auto, which is torch on cuda.",
        )
    threads = threads or available_cpus()
    cache_dir = cache_dir.expanduser()
    model = resolve_model(name, kind, model_dir=model_dir and model_dir.expanduser(), cache_dir=cache_dir)
    if backend == "onnx":
        from services.common.models.onnx import OnnxRuntime  # noqa: PLC0415  only the engine in use is imported

        return OnnxRuntime.load(model, cache_dir=cache_dir, threads=threads)
    if missing := [package for package in ("torch", "sentence_transformers") if find_spec(package) is None]:
        raise StartupError(
            f"the torch backend needs {' and '.join(missing)}",
            remedy="Install sluice[torch], or set the backend to onnx.",
        )
    from services.common.models.reference import TorchRuntime  # noqa: PLC0415  only the engine in use is imported

    return TorchRuntime(model, device=device, threads=threads)
