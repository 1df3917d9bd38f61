"""Build the ONNX graph of a BERT-like model from its configuration; the weights stay in `model.safetensors`.

Known are BERT, RoBERTa, XLM-RoBERTa, ELECTRA and MPNet: encoders with mean or CLS pooling, cross-encoders, and late
interaction models.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from services.inference.models.info import ModelKind
from services.inference.models.layout import (
    PROJECTION,
    UnknownModelError,
    read_json,
    read_spec,
    tensors_of,
    transformer_folder,
    weights_file,
)

_OPSET, _IR_VERSION = 17, 8
_TYPES = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
_WORDS = "embeddings.word_embeddings.weight"
# Names inside a layer that differ between families.
_BERT_ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
_MPNET_ATTENTION = ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")
_LEAST = float(np.finfo(np.float32).min)
_FARTHEST_DISTANCE = 128


def build_graph(folder: Path, kind: ModelKind) -> onnx.ModelProto:
    """Return the graph from token ids to vectors, logits or vectors of tokens.

    A weight is a reference to its bytes in `weights_file(folder)`, by the name of that file alone. Raises
    UnknownModelError for a part that is not known here.
    """
    try:
        return _Builder(folder).build(kind)
    except KeyError as error:
        raise UnknownModelError(f"it has no {error.args[0]}") from error


class _Builder:
    """A graph in the making: its nodes in order, and the tensors that they use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config: dict[str, Any] = read_json(transformer_folder(folder) / "config.json")
        self._family = str(self._config["model_type"]).removeprefix("xlm-")
        if self._family not in {"bert", "roberta", "electra", "mpnet"}:
            raise UnknownModelError(f"its model_type is {self._family}")
        for name, expected in (("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("is_decoder", False)):
            if (found := self._config.get(name, expected)) != expected:
                raise UnknownModelError(f"its {name} is {found}")
        self._file = weights_file(folder)
        self._weights, self._weights_start = tensors_of(self._file)
        self._prefix = "" if _WORDS in self._weights else f"{self._family}."
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: dict[str, onnx.TensorProto] = {}

    def build(self, kind: ModelKind) -> onnx.ModelProto:
        """Return the whole graph."""
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if self._has_token_types else [])]
        states = self._hidden_states()
        add_output = {
            ModelKind.ENCODER: self._pooled,
            ModelKind.CROSS_ENCODER: self._logits,
            ModelKind.TOKENS: self._projected,
        }
        output = add_output[kind](states)
        axes = ["rows", "tokens", None] if kind is ModelKind.TOKENS else ["rows", None]
        self._nodes.append(helper.make_node("Identity", [output], ["output"]))
        graph = helper.make_graph(
            self._nodes,
            "model",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in inputs],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, axes)],
            list(self._tensors.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)

    @property
    def _has_token_types(self) -> bool:
        return self._family in {"bert", "electra"}

    def _hidden_states(self) -> str:
        """Add the transformer: [rows, tokens, hidden]."""
        mask = self._add("Cast", "attention_mask", to=TensorProto.FLOAT)
        mask = self._add("Unsqueeze", mask, self._ints(1, 2))
        attention_bias = self._add("Mul", self._add("Sub", self._floats(1.0), mask), self._floats(_LEAST))
        if self._family == "mpnet":
            attention_bias = self._add("Add", attention_bias, self._relative_bias())
        states = self._embeddings()
        for number in range(self._config["num_hidden_layers"]):
            states = self._layer(states, attention_bias, f"{self._prefix}encoder.layer.{number}.")
        return states

    def _embeddings(self) -> str:
        room = f"{self._prefix}embeddings."
        states = self._add("Gather", self._weight(f"{room}word_embeddings.weight"), "input_ids")
        if self._family != "mpnet":
            ids = "token_type_ids" if self._has_token_types else self._ints(0)
            types = self._add("Gather", self._weight(f"{room}token_type_embeddings.weight"), ids)
            states = self._add("Add", states, types)
        positions = self._add("Gather", self._weight(f"{room}position_embeddings.weight"), self._positions())
        states = self._norm(self._add("Add", states, positions), f"{room}LayerNorm")
        if f"{self._prefix}embeddings_project.weight" in self._weights:
            states = self._dense(states, f"{self._prefix}embeddings_project")
        return states

    def _positions(self) -> str:
        if self._has_token_types:
            return self._range()
        # Positions of RoBERTa and MPNet count from the padding's id on, and padding stays there.
        padding = self._ints(self._config.get("pad_token_id", 1))
        token = self._add("Not", self._add("Equal", "input_ids", padding))
        token = self._add("Cast", token, to=TensorProto.INT64)
        return self._add("Add", self._add("Mul", self._add("CumSum", token, self._ints(1)), token), padding)

    def _range(self) -> str:
        """Add the numbers from 0 to the row's width."""
        width = self._add("Gather", self._add("Shape", "input_ids"), self._scalar(1))
        return self._add("Range", self._scalar(0), width, self._scalar(1))

    def _relative_bias(self) -> str:
        """Add MPNet's bias by the distance of two tokens: [1, heads, tokens, tokens]."""
        most = self._config["max_position_embeddings"]
        buckets = self._constant(_buckets(most, self._config.get("relative_attention_num_buckets", 32)))
        places = self._range()
        here, there = (self._add("Unsqueeze", places, self._ints(axis)) for axis in (1, 0))
        distances = self._add("Add", self._add("Sub", there, here), self._ints(most))
        table = self._weight(f"{self._prefix}encoder.relative_attention_bias.weight")
        bias = self._add("Gather", table, self._add("Gather", buckets, distances))
        return self._add("Unsqueeze", self._add("Transpose", bias, perm=[2, 0, 1]), self._ints(0))

    def _layer(self, states: str, attention_bias: str, room: str) -> str:
        is_mpnet = self._family == "mpnet"
        query, key, value, output = _MPNET_ATTENTION if is_mpnet else _BERT_ATTENTION
        heads = self._config["num_attention_heads"]
        size = self._config["hidden_size"] // heads
        queries, keys, values = (
            self._add(
                "Transpose",
                self._add("Reshape", self._dense(states, room + name), self._ints(0, 0, heads, size)),
                perm=order,
            )
            for name, order in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        scores = self._add("Mul", self._add("MatMul", queries, keys), self._floats(size**-0.5))
        shares = self._add("Softmax", self._add("Add", scores, attention_bias), axis=-1)
        mixed = self._add("Transpose", self._add("MatMul", shares, values), perm=[0, 2, 1, 3])
        mixed = self._dense(self._add("Reshape", mixed, self._ints(0, 0, heads * size)), room + output)
        norm = "attention.LayerNorm" if is_mpnet else "attention.output.LayerNorm"
        states = self._norm(self._add("Add", mixed, states), room + norm)
        inner = self._gelu(self._dense(states, f"{room}intermediate.dense"))
        return self._norm(
            self._add("Add", self._dense(inner, f"{room}output.dense"), states), f"{room}output.LayerNorm"
        )

    def _pooled(self, states: str) -> str:
        """Add what sentence-transformers does after the transformer: [rows, dimension]."""
        # Without modules.json sentence-transformers pools by the mean, as _pooling does for a file that names no mode.
        for module in read_json(self._folder / "modules.json", [{}, {"type": "Pooling"}])[1:]:
            name = module["type"].rsplit(".", 1)[-1]
            if name == "Pooling":
                states = self._pooling(states, read_json(self._folder / module.get("path", "") / "config.json"))
            elif name == "Normalize":
                length = self._add("ReduceL2", states, axes=[-1], keepdims=1)
                states = self._add("Div", states, self._add("Clip", length, self._floats(1e-12)))
            else:
                raise UnknownModelError(f"its modules.json has {module['type']}")
        return states

    def _pooling(self, states: str, config: dict[str, Any]) -> str:
        modes = (
            config.get("pooling_mode")
            or [
                name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                for name, active in config.items()
                if name.startswith("pooling_mode_") and active
            ]
            or "mean"
        )
        if modes in ("cls", ["cls"]):
            return self._first(states)
        if modes not in ("mean", ["mean"]) or not config.get("include_prompt", True):
            raise UnknownModelError(f"its pooling is {modes}")
        mask = self._add("Unsqueeze", self._add("Cast", "attention_mask", to=TensorProto.FLOAT), self._ints(2))
        total = self._add("ReduceSum", self._add("Mul", states, mask), self._ints(1), keepdims=0)
        count = self._add("ReduceSum", mask, self._ints(1), keepdims=0)
        return self._add("Div", total, count)

    def _logits(self, states: str) -> str:
        """Add the classifier over the first token: [rows, 1]."""
        if read_json(self._folder / "modules.json", [])[1:]:
            raise UnknownModelError("its modules.json has more than a transformer")
        first = self._first(states)
        if self._family == "bert":
            pooled = self._add("Tanh", self._dense(first, f"{self._prefix}pooler.dense"))
            return self._dense(pooled, "classifier")
        inner = self._dense(first, "classifier.dense")
        inner = self._gelu(inner) if self._family == "electra" else self._add("Tanh", inner)
        return self._dense(inner, "classifier.out_proj")

    def _projected(self, states: str) -> str:
        """Add the projection of a late interaction model, or cut its states: [rows, tokens, dimension]."""
        if PROJECTION in self._weights:
            return self._add("MatMul", states, self._add("Transpose", self._weight(PROJECTION), perm=[1, 0]))
        dimension = read_spec(self._folder, ModelKind.TOKENS).dimension
        return self._add("Slice", states, self._ints(0), self._ints(dimension), self._ints(2))

    def _first(self, states: str) -> str:
        return self._add("Gather", states, self._scalar(0), axis=1)

    def _dense(self, states: str, name: str) -> str:
        matrix = self._add("Transpose", self._weight(f"{name}.weight"), perm=[1, 0])  # torch keeps [out, in]
        return self._add("Add", self._add("MatMul", states, matrix), self._weight(f"{name}.bias"))

    def _norm(self, states: str, name: str) -> str:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        epsilon = self._config.get("layer_norm_eps", 1e-12)
        return self._add("LayerNormalization", states, weight, bias, axis=-1, epsilon=epsilon)

    def _gelu(self, states: str) -> str:
        """Add x/2 (1 + erf(x/sqrt 2)), in the form that ONNX Runtime knows and fuses."""
        erf = self._add("Erf", self._add("Div", states, self._floats(math.sqrt(2))))
        return self._add("Mul", self._add("Mul", states, self._add("Add", erf, self._floats(1.0))), self._floats(0.5))

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the result is the name of its output."""
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _weight(self, name: str) -> str:
        """Refer to a tensor of the weights' file; the result is fp32."""
        if name not in self._tensors:
            about = self._weights[name]
            start, end = about["data_offsets"]
            place = {"location": self._file.name, "offset": self._weights_start + start, "length": end - start}
            tensor = TensorProto(name=name, data_type=_TYPES[about["dtype"]], dims=about["shape"])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            self._tensors[name] = tensor
        if self._tensors[name].data_type == TensorProto.FLOAT:
            return name
        return self._add("Cast", name, to=TensorProto.FLOAT)

    def _floats(self, value: float) -> str:
        return self._constant(np.array(value, dtype=np.float32))

    def _ints(self, *values: int) -> str:
        return self._constant(np.array(values, dtype=np.int64))

    def _scalar(self, value: int) -> str:
        return self._constant(np.array(value, dtype=np.int64))

    def _constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self._tensors)}"
        self._tensors[name] = numpy_helper.from_array(value, name)
        return name


def _buckets(most: int, count: int) -> NDArray[np.int64]:
    """Return MPNet's bucket for each distance from -`most` to `most`: exact near by, logarithmic farther away."""
    distances = np.arange(-most, most + 1)
    half = count // 2
    exact = half // 2
    far = np.abs(distances).clip(1).astype(np.float32)
    scaled = np.log(far / exact) / math.log(_FARTHEST_DISTANCE / exact) * (half - exact)
    buckets = np.where(np.abs(distances) < exact, np.abs(distances), np.minimum(exact + scaled.astype(int), half - 1))
    return (buckets + np.where(distances > 0, half, 0)).astype(np.int64)
