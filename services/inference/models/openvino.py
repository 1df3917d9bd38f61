"""Serve a model on cpu in OpenVINO, int8, from a graph that is quantized once and kept.

A pass has one thread, and there are as many passes at once as threads: a second thread in a pass of a small model in
int8 gains next to nothing (docs/adr/0017-int8-streams.md).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from services.chassis import logs
from services.inference.cpu import int8_instructions
from services.inference.models.artifacts import built_once, read_facts
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
    """A model in OpenVINO, static int8. The graph includes pooling and normalization, as the model defines them."""

    def __init__(self, folder: Path, *, name: str, fingerprint: str, threads: int) -> None:
        self.spec, tokenizer = read_facts(folder)
        self.tokenizer = Tokenizer(tokenizer, self.spec.max_token_count)
        self.info = self.spec.info(
            name=name,
            fingerprint=fingerprint,
            backend="openvino",
            precision="int8",
            device="cpu",
        )
        self._model = _compiled(folder / GRAPH_FILE, threads)
        self._threads = threads
        self._inputs = [graph_input.get_any_name() for graph_input in self._model.inputs]
        self._local = threading.local()

    @classmethod
    def load(cls, model: ResolvedModel, *, cache_dir: Path, threads: int, gate: QualityGate) -> OpenVinoRuntime:
        """Open the quantized graph, which is made first if there is none.

        Raises PrecisionRefused if its quality does not pass the gate, and StartupError if it cannot be made. It is
        kept also if it is refused, so that the next start refuses it at once.
        """
        fingerprint = fingerprint_of(model.folder)
        folder = built_once(
            cache_dir / model.artifact("int8", _QUANTIZATION_VERSION, fingerprint),
            "services.inference.models.quantize",
            [model.kind, model.name, str(model.folder), str(cache_dir)],
            needs=("nncf",),
            extra="int8",
            otherwise="Or set the precision to fp32.",
        )
        quality = Quality.read(folder)
        gate.check(quality)
        if quality.instructions != int8_instructions():
            _log.warning(
                "the quality of this int8 model was measured on another kind of processor",
                measured_with=quality.instructions,
                served_with=int8_instructions(),
            )
        return cls(folder, name=model.name, fingerprint=fingerprint, threads=threads)

    def width(self, token_count: int) -> int:
        """Round up to a step, so that there are few shapes: each costs a compilation and some memory.

        Rounding errors depend on the width, so the width depends on nothing but the row. See `Runtime.width`.
        """
        step = _SHORT_STEP if token_count <= _LONGEST_SHORT else _LONG_STEP
        return min(-(-token_count // step) * step, self.spec.max_token_count)

    def warm_up(self, batch_tokens: int) -> None:
        """Compile each possible shape in each stream: the first use of one takes tens of milliseconds."""
        widths = {self.width(token_count) for token_count in range(1, self.spec.max_token_count + 1)}
        with ThreadPoolExecutor(self._threads) as passes:  # passes at the same time take a stream each
            for width in sorted(widths):
                for rows in range(1, max(1, batch_tokens // width) + 1):
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
        request.infer({name: feed[name] for name in self._inputs}, share_inputs=True)
        rows: NDArray[np.float32] = request.get_output_tensor(0).data
        return rows.copy()  # the tensor is the request's own, and the next call writes over it


def _compiled(graph: Path, threads: int) -> openvino.CompiledModel:
    """Compile the graph for `threads` streams, pinned to no core, because services share the cores."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        # Where the processor has AMX, what is not int8 would be bf16, and a row would depend on its batch (5.8e-4).
        "INFERENCE_PRECISION_HINT": "f32",
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SHAPES,
    }
    return openvino.Core().compile_model(graph, "CPU", options)
