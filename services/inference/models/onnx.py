"""Serve a model on cpu in ONNX Runtime, fp32: from its own files if a graph can be built for it, or from an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.external_data_helper import load_external_data_for_model

from services.inference.models.artifacts import built_once, read_facts
from services.inference.models.graph import build_graph
from services.inference.models.info import ModelKind, ModelSpec
from services.inference.models.layout import UnknownModelError, fingerprint_of, read_spec, read_tokenizer, weights_file
from services.inference.models.resolver import ResolvedModel
from services.inference.models.tokenization import Tokenizer, feed_for

GRAPH_FILE = "model.onnx"
# Part of an export's key: raise it when `export` writes something else than before.
_EXPORT_VERSION = 1
# Beyond this many attention scores a head, the memory of a pass is given back at its end.
_KEPT_SCORES = 2**22


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """Everything that ONNX Runtime needs to serve a model."""

    graph: bytes
    weights: Path
    """Folder of the file that the graph refers to for its weights."""
    spec: ModelSpec
    tokenizer: str
    """Content of a tokenizer.json."""

    @classmethod
    def build(cls, folder: Path, kind: ModelKind) -> OnnxModel:
        """Build the graph from the model's own files, in milliseconds; raise UnknownModelError."""
        graph = build_graph(folder, kind).SerializeToString()
        return cls(graph, weights_file(folder).parent, read_spec(folder, kind), read_tokenizer(folder))

    @classmethod
    def read(cls, folder: Path) -> OnnxModel:
        """Read an export."""
        return cls((folder / GRAPH_FILE).read_bytes(), folder, *read_facts(folder))

    def with_weights(self) -> bytes:
        """Return the graph with its weights in it, for engines that read no weights from elsewhere."""
        graph = onnx.load_model_from_string(self.graph)
        load_external_data_for_model(graph, str(self.weights))
        return graph.SerializeToString()

    @classmethod
    def prepare(cls, model: ResolvedModel, fingerprint: str, cache_dir: Path) -> OnnxModel:
        """Build the graph, or export the model once if its architecture is not known here; raise StartupError."""
        try:
            return cls.build(model.folder, model.kind)
        except UnknownModelError as error:
            if model.kind is ModelKind.TOKENS:
                raise  # sentence-transformers, which an export is compared with, computes no such model
            folder = built_once(
                cache_dir / model.artifact("fp32", _EXPORT_VERSION, fingerprint),
                "services.inference.models.export",
                [model.kind, str(model.folder)],
                needs=("torch", "sentence_transformers"),
                extra="export",
                why=f"{model.name} can be served only by way of an export to ONNX, because {error}",
                otherwise="Or set the backend to torch, which needs no export.",
                vouched=model.vouched,
            )
            return cls.read(folder)


def _shrinking() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


_SHRINKING = _shrinking()


class OnnxRuntime:
    """A model in ONNX Runtime. The graph includes pooling and normalization, as the model defines them."""

    def __init__(self, model: OnnxModel, *, name: str, fingerprint: str, threads: int) -> None:
        self.spec = model.spec
        self.tokenizer = Tokenizer(model.tokenizer, model.spec.max_token_count)
        self.info = self.spec.info(name=name, fingerprint=fingerprint, backend="onnx", precision="fp32", device="cpu")
        self._session = _open_session(model, threads)
        self._inputs = [graph_input.name for graph_input in self._session.get_inputs()]

    @classmethod
    def load(cls, model: ResolvedModel, *, cache_dir: Path, threads: int) -> OnnxRuntime:
        """Open a model, which is exported first if its graph cannot be built here; raise StartupError."""
        fingerprint = fingerprint_of(model.folder)
        prepared = OnnxModel.prepare(model, fingerprint, cache_dir)
        return cls(prepared, name=model.name, fingerprint=fingerprint, threads=threads)

    def width(self, token_count: int) -> int:
        """Return the tokens themselves: padding moves nothing by more than fp32's own noise."""
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        """Do nothing: no shape is compiled."""

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """See `Runtime.run`. The GIL is released while the graph computes."""
        feed = feed_for(ids, type_ids, self.spec.pad_token_id, attended=attended)
        rows: NDArray[np.float32]
        count, width = feed["input_ids"].shape
        options = _SHRINKING if count * width**2 > _KEPT_SCORES else None
        (rows,) = self._session.run(None, {name: feed[name] for name in self._inputs}, options)
        return rows


def _open_session(model: OnnxModel, threads: int) -> onnxruntime.InferenceSession:
    """Open a session with a pool of `threads` that do not spin: services share these cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # ONNX Runtime maps the weights from there into memory, it makes no copy of them.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(model.weights))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
