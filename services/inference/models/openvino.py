"""Serve a model on cpu in OpenVINO: fp32, bf16, or int8 from a graph that is quantized once and kept.

A pass has one thread, and there are as many passes at once as threads: a second thread in a pass of a small model in
int8 gains next to nothing (docs/adr/0017-int8-streams.md), and in bf16 no more.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.cpu import bf16_instructions, int8_instructions
from services.inference.models.artifacts import built_once, read_facts
from services.inference.models.info import ModelSpec, Precision
from services.inference.models.layout import fingerprint_of
from services.inference.models.quality import Quality, QualityGate
from services.inference.models.resolver import ResolvedModel
from services.inference.models.tokenization import Tokenizer, feed_for

GRAPH_FILE = "model.xml"
# Part of an artifact's key: raise it when `quantize` writes something else than before.
_QUANTIZATION_VERSION = 2
# Rows are padded to multiples of these. Finer steps pad less but batch less: for short queries from 8 and 32
# clients, 16 gave 1.15 and 1.06 times the throughput of 8; over texts of 4 to 256 tokens they are level (simulated).
_SHORT_STEP, _LONG_STEP, _LONGEST_SHORT = 16, 32, 64
# Compiled shapes kept, counted by layer: more than all widths and rows together can have.
_KEPT_SHAPES = 1_000_000

_log = logs.get_logger("models")


class OpenVinoRuntime:
    """A model in OpenVINO. The graph includes pooling and normalization, as the model defines them."""

    def __init__(
        self,
        graph: openvino.Model,
        spec: ModelSpec,
        tokenizer: str,
        precision: Precision,
        *,
        name: str,
        fingerprint: str,
        threads: int,
    ) -> None:
        self.spec = spec
        self.tokenizer = Tokenizer(tokenizer, spec.max_token_count)
        self.info = spec.info(name=name, fingerprint=fingerprint, backend="openvino", precision=precision, device="cpu")
        self._model = _compiled(graph, precision, threads)
        self._threads = threads
        self._vocabulary = _vocabulary(graph)
        self._inputs = [graph_input.get_any_name() for graph_input in self._model.inputs]
        self._local = threading.local()

    @classmethod
    def load(
        cls, model: ResolvedModel, precision: Precision, *, cache_dir: Path, threads: int, gate: QualityGate | None
    ) -> OpenVinoRuntime:
        """Open a model. Its int8 graph is made first if there is none, see `int8_folder`; raises StartupError."""
        if precision == "int8":
            folder = int8_folder(model, cache_dir=cache_dir, gate=gate)
            return cls.read(folder, name=model.name, fingerprint=fingerprint_of(model.folder), threads=threads)
        if precision == "bf16" and bf16_instructions() == "none":
            raise StartupError(
                "this processor has no instructions for bf16",
                remedy="Set the precision to fp32, or the backend to auto.",
            )
        # Building the graph needs `onnx`, which serving int8 does not.
        from services.inference.models.onnx import OnnxModel  # noqa: PLC0415  see above

        fingerprint = fingerprint_of(model.folder)
        source = OnnxModel.prepare(model, fingerprint, cache_dir)
        graph = openvino.Core().read_model(io.BytesIO(source.with_weights()))
        return cls(
            graph, source.spec, source.tokenizer, precision, name=model.name, fingerprint=fingerprint, threads=threads
        )

    @classmethod
    def read(cls, folder: Path, *, name: str, fingerprint: str, threads: int) -> OpenVinoRuntime:
        """Open the int8 graph in a folder."""
        graph = openvino.Core().read_model(folder / GRAPH_FILE)
        return cls(graph, *read_facts(folder), "int8", name=name, fingerprint=fingerprint, threads=threads)

    def width(self, token_count: int) -> int:
        """Round up to a step, so that there are few shapes: each costs a compilation and some memory.

        Rounding errors depend on the width, so the width depends on nothing but the row. See `Runtime.width`.
        """
        step = _SHORT_STEP if token_count <= _LONGEST_SHORT else _LONG_STEP
        return min(-(-token_count // step) * step, self.spec.max_token_count)

    def warm_up(self, batch_tokens: int) -> None:
        """Compile each possible shape in each stream: the first use of one takes tens of milliseconds.

        In fp32 and bf16 it is about 10, less than computing it, and only the shapes of single rows are compiled.
        """
        widths = {self.width(token_count) for token_count in range(1, self.spec.max_token_count + 1)}
        with ThreadPoolExecutor(self._threads) as passes:  # passes at the same time take a stream each
            for width in sorted(widths):
                most_rows = max(1, batch_tokens // width) if self.info.precision == "int8" else 1
                for rows in range(1, most_rows + 1):
                    list(passes.map(self.run, [[[self.spec.pad_token_id] * width] * rows] * self._threads))

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """See `Runtime.run`. The GIL is released while the graph computes."""
        request: openvino.InferRequest | None = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._model.create_infer_request()
        width = self.width(max(map(len, ids)))
        feed = feed_for(ids, type_ids, self.spec.pad_token_id, width, attended)
        if feed["input_ids"].max() >= self._vocabulary:  # OpenVINO would take zeros, without a word
            raise IndexError("a token is beyond the model's embeddings")
        request.infer({name: feed[name] for name in self._inputs}, share_inputs=True)
        rows: NDArray[np.float32] = request.get_output_tensor(0).data
        return rows.copy()  # the tensor is the request's own, and the next call writes over it


def int8_folder(model: ResolvedModel, *, cache_dir: Path, gate: QualityGate | None) -> Path:
    """Return the folder of the quantized graph, which is made first if there is none.

    Raises PrecisionRefused if its quality does not pass the gate, if any, and StartupError if it cannot be made. It is
    kept also if it is refused, so that the next start refuses it at once.
    """
    folder = built_once(
        cache_dir / model.artifact("int8", _QUANTIZATION_VERSION, fingerprint_of(model.folder)),
        "services.inference.models.quantize",
        [model.kind, model.name, str(model.folder), str(cache_dir)],
        needs=("nncf",),
        extra="int8",
        otherwise="Or set the precision to fp32.",
        vouched=model.vouched,
    )
    quality = Quality.read(folder)
    if gate is not None:
        gate.check(quality)
        if quality.instructions != int8_instructions():
            _log.warning(
                "the quality of this int8 model was measured on another kind of processor",
                measured_with=quality.instructions,
                served_with=int8_instructions(),
            )
    return folder


def _vocabulary(graph: openvino.Model) -> int:
    """Return the number of tokens that have an embedding: the rows of the largest table that is looked up in."""
    tables = [op.input_value(0).get_partial_shape() for op in graph.get_ops() if op.get_type_name() == "Gather"]
    return max(int(shape[0].get_length()) for shape in tables if shape.is_static and len(shape) == 2)


def _compiled(graph: openvino.Model, precision: Precision, threads: int) -> openvino.CompiledModel:
    """Compile the graph for `threads` streams, pinned to no core, because services share the cores."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        # Where the processor can, what is not int8 would be bf16 without being asked for.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SHAPES,
    }
    return openvino.Core().compile_model(graph, "CPU", options)
