"""The fast engine on cpu: ONNX Runtime over an export that is made once and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from services.inference.models.artifacts import built_once
from services.inference.models.info import ModelSpec, fingerprint_of
from services.inference.models.resolver import ResolvedModel
from services.inference.models.tokenization import Tokenizer, feed_for

GRAPH_FILE = "model.onnx"
SPEC_FILE = "spec.json"
TOKENIZER_FILE = "tokenizer.json"
# Part of an export's key: raise it when `export` writes something else than before.
_EXPORT_VERSION = 1


class OnnxRuntime:
    """A model in ONNX Runtime, fp32. The graph holds pooling and normalization too, as the model defines them."""

    def __init__(self, folder: Path, *, name: str, fingerprint: str, threads: int) -> None:
        self.spec = ModelSpec(**json.loads((folder / SPEC_FILE).read_text()))
        self.tokenizer = Tokenizer((folder / TOKENIZER_FILE).read_text(), self.spec.max_token_count)
        self.info = self.spec.info(
            name=name,
            fingerprint=fingerprint,
            backend="onnx",
            precision="fp32",
            device="cpu",
        )
        self._session = _open_session(folder / GRAPH_FILE, threads)
        self._inputs = [graph_input.name for graph_input in self._session.get_inputs()]

    @classmethod
    def load(cls, model: ResolvedModel, *, cache_dir: Path, threads: int) -> OnnxRuntime:
        """Opens the model's export, which is made first where there is none; StartupError where that fails."""
        fingerprint = fingerprint_of(model.folder)
        folder = exported(model, fingerprint, cache_dir)
        return cls(folder, name=model.name, fingerprint=fingerprint, threads=threads)

    def width(self, token_count: int) -> int:
        """See `Runtime.width`. Padding moves nothing by more than fp32's own noise, so rows are as wide as they are."""
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        """See `Runtime.warm_up`: no shape is compiled."""

    def run(self, ids: Sequence[list[int]], type_ids: Sequence[list[int]] | None = None) -> NDArray[np.float32]:
        """See `Runtime.run`. The GIL is released while the graph computes."""
        feed = feed_for(ids, type_ids, self.spec.pad_token_id)
        rows: NDArray[np.float32]
        (rows,) = self._session.run(None, {name: feed[name] for name in self._inputs})
        return rows


def exported(model: ResolvedModel, fingerprint: str, cache_dir: Path) -> Path:
    """The folder of the model's export, made first where there is none; StartupError where that fails."""
    return built_once(
        cache_dir / model.artifact("fp32", _EXPORT_VERSION, fingerprint),
        "services.inference.models.export",
        [model.kind, str(model.folder)],
        needs=("torch", "sentence_transformers", "onnx"),
    )


def _open_session(graph: Path, threads: int) -> onnxruntime.InferenceSession:
    """An inference session on cpu with its own pool of `threads` that do not spin: services share these cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
