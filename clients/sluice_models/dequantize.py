"""Convert a BERT model from a dynamically quantized ONNX graph into an ordinary fp32 model folder.

In such a graph a score depends on the other rows of its batch, because activations are quantized over all of them at
once; its weights, converted back, behave like those of any other model.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sluice_models.sources import Kind

Weights = dict[str, NDArray[np.float32]]
_WORDS = "embeddings.word_embeddings.weight"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def dequantize(source: Path, kind: Kind, attention_heads: int, target: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into the folder `target`."""
    weights = dict(_weights(onnx.load(source / "model.onnx").graph))
    _write_safetensors(weights, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(_config(weights, kind, attention_heads), indent=2))
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)


def _write_safetensors(weights: Weights, target: Path) -> None:
    """Write the length of a header, the header in JSON, and the bytes of each tensor."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end, end := end + tensor.nbytes]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in weights.values():
            stream.write(np.ascontiguousarray(tensor, dtype="<f4").tobytes())


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the parameters under their names in transformers.

    Biases, layer norms and embeddings kept their names when the graph was exported. The matrices of dense layers did
    not: a matrix is that of the layer whose named bias is added to its product.
    """
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = defaultdict(list)
    makers = {}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
        for name in node.output:
            makers[name] = node

    for name, tensor in tensors.items():
        if name.endswith((".weight", ".bias")) and tensor.dtype == np.float32:
            yield name, tensor
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            # An embedding: rows are gathered before they are dequantized, so only the scale is an input here.
            _, scale, zero_point = node.input
            name = scale.removesuffix("_scale")
            yield name, _dequantized(tensors[f"{name}_quantized"], tensors[scale], tensors[zero_point])
        elif node.op_type == "MatMulInteger":
            _, matrix, _, zero_point = node.input
            (cast,) = readers[node.output[0]]
            (rescaled,) = readers[cast.output[0]]
            (added,) = readers[rescaled.output[0]]
            scales = next(makers[name] for name in rescaled.input if name != cast.output[0])
            scale = next(name for name in scales.input if name in tensors)
            bias = next(name for name in added.input if name in tensors)
            # ONNX multiplies by [in, out], torch keeps [out, in].
            weight = _dequantized(tensors[matrix], tensors[scale], tensors[zero_point]).T
            yield f"{bias.removesuffix('.bias')}.weight", np.ascontiguousarray(weight)


def _dequantized(
    quantized: NDArray[np.integer], scale: NDArray[np.float32], zero_point: NDArray[np.integer]
) -> NDArray[np.float32]:
    return (quantized.astype(np.float32) - zero_point.astype(np.float32)) * scale


def _config(weights: Weights, kind: Kind, attention_heads: int) -> dict[str, object]:
    words_name = next(name for name in weights if name.endswith(_WORDS))
    prefix = words_name.removesuffix(_WORDS)
    words, hidden = weights[words_name].shape
    layers = {layer[1] for name in weights if (layer := re.match(rf"{prefix}encoder\.layer\.(\d+)\.", name))}
    scores = kind == "cross-encoder"
    return {
        "architectures": ["BertForSequenceClassification" if scores else "HF_ColBERT"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": weights[f"{prefix}encoder.layer.0.intermediate.dense.bias"].shape[0],
        "num_attention_heads": attention_heads,
        "num_hidden_layers": len(layers),
        "vocab_size": words,
        "max_position_embeddings": weights[f"{prefix}embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": weights[f"{prefix}embeddings.token_type_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        **({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if scores else {}),
    }
