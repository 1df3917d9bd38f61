"""Turns an fp32 export into static int8, and refuses the result where it has lost too much.

Called as `python -m services.common.models.quantize KIND EXPORT TARGET`. Needs the onnx package, but no torch.

Only the products of activations and weights are int8, which is where the time goes: activations unsigned with one
scale, weights signed with one scale a column. The scales are fixed here, by calibration on real text, so a row never
depends on its batch. Before that, SmoothQuant (Xiao et al., ICML 2023) moves the outliers of single channels, which
would spoil the scale of all the others, from the activations into the weights.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from services.common.cpu import available_cpus
from services.common.errors import StartupError
from services.common.models import quality
from services.common.models.info import ModelKind
from services.common.models.onnx import GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE, OnnxRuntime
from services.common.models.tokenization import TokenizedPair, TokenizedText, feed_for

QUALITY_FILE = "quality.json"
# How far outliers move into the weights, between 0 and 1. Measured for all-MiniLM-L6-v2, mean cosine to fp32: none
# .9927, 0.5 .9845, 0.7 .9973, 0.8 .9978, 0.95 .9975.
_SMOOTHING = 0.8
_LARGEST_WEIGHT = 127
_LARGEST_ACTIVATION = 255
_SMALLEST_PEAK = 1e-5

Row = TokenizedText | TokenizedPair
Array = NDArray[np.float32]


def quantize(kind: ModelKind, source: Path, target: Path) -> None:
    """Writes graph, tokenizer, spec and the measured quality into `target`; StartupError below the bars."""
    fp32 = OnnxRuntime(source, name=source.name, fingerprint="", precision="fp32", threads=available_cpus())
    texts = quality.real_texts()
    model = onnx.load(source / GRAPH_FILE)
    layers = _linear_layers(model.graph)
    if not layers:
        raise StartupError("the export has no products with constant weights", remedy="Set the precision to fp32.")
    ranges = _ranges(model, layers, quality.calibration_rows(kind, fp32.tokenizer, texts))
    for number, (activation, nodes) in enumerate(layers.items()):
        _quantize_layer(model.graph, f"int8_{number}", nodes, *ranges[activation])
    _finish(model)
    onnx.save(model, target / GRAPH_FILE, save_as_external_data=True, location=f"{GRAPH_FILE}.data")
    for name in (SPEC_FILE, TOKENIZER_FILE):
        shutil.copyfile(source / name, target / name)

    int8 = OnnxRuntime(target, name=source.name, fingerprint="", precision="int8", threads=available_cpus())
    figures = quality.compare(kind, fp32, int8, texts)
    (target / QUALITY_FILE).write_text(json.dumps(asdict(figures), indent=2))
    quality.check(figures)


def _linear_layers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The products with a constant matrix, by the activation that they share."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    layers = defaultdict(list)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in matrices:
            layers[node.input[0]].append(node)
    return dict(layers)


def _ranges(model: onnx.ModelProto, activations: Iterable[str], rows: Sequence[Row]) -> dict[str, tuple[Array, Array]]:
    """The lowest and highest value of every channel of the activations, 0 included."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(activations)
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    ...
