"""Convert an fp32 model to static int8, and measure the loss of quality.

Called as `python -m services.inference.models.quantize KIND NAME MODEL_FOLDER CACHE TARGET`. Needs the extra
int8; torch only if the model has to be exported first.

The scales of activations are fixed here, on real text, so a row never depends on its batch. Outliers of single
channels, which would spoil the scale of all the others, are moved into the weights first (SmoothQuant, Xiao et al.,
ICML 2023). Then the int8 model answers the questions of a small collection next to the fp32 one, and the quality of
its answers is written down. `QualityGate` decides at loading if that is enough.
"""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Without it nncf reports its use to its makers.
os.environ["NNCF_CI"] = "1"

import nncf
import openvino
from openvino.passes import ConstantFolding, Manager

from services.chassis.errors import StartupError
from services.inference.cpu import available_cpus, int8_instructions
from services.inference.manifest import inherited
from services.inference.models.artifacts import write_facts
from services.inference.models.info import ModelKind
from services.inference.models.known_items import KnownItem, known_items
from services.inference.models.layout import fingerprint_of
from services.inference.models.onnx import OnnxModel, OnnxRuntime
from services.inference.models.openvino import GRAPH_FILE, OpenVinoRuntime
from services.inference.models.quality import Quality
from services.inference.models.resolver import ResolvedModel
from services.inference.models.tokenization import LateText, TokenizedPair, TokenizedText, feed_for

_MOST_CALIBRATION_ITEMS = 150
_ENCODER_ITEMS = 600
_CROSS_ENCODER_ITEMS, _CROSS_ENCODER_CANDIDATES = 150, 8
# A cross-encoder reads every candidate for every question: this many words of each keep the gate at a minute.
_CROSS_ENCODER_WORDS = 80
# The token model reads all of a passage up to here, as it is served by default.
_LATE_ITEMS, _LATE_PASSAGE_TOKENS = 150, 180
# How far outliers move into the weights, 0 to 1: the best of 0.5 to 0.95 for all-MiniLM-L6-v2.
_SMOOTHING = 0.7
_BATCH = 8

Rows = Sequence[TokenizedText] | Sequence[TokenizedPair] | Sequence[LateText]


def quantize(kind: ModelKind, source: OnnxModel, target: Path, items: Sequence[KnownItem]) -> None:
    """Quantize and measure on `items`; write graph, tokenizer, spec and quality into `target`."""
    count = min(_MOST_CALIBRATION_ITEMS, len(items) // 4)
    calibration, questions = items[:count], items[count:]
    fp32 = OnnxRuntime(source, name="fp32", fingerprint="", threads=available_cpus())
    _write_graph(source, _calibration_rows(kind, fp32, calibration), target)
    write_facts(target, source.spec, source.tokenizer)
    int8 = OpenVinoRuntime.read(target, name="int8", fingerprint="", threads=available_cpus())
    measure = {
        ModelKind.ENCODER: _encoder_quality,
        ModelKind.CROSS_ENCODER: _cross_encoder_quality,
        ModelKind.TOKENS: _late_quality,
    }[kind]
    measure(fp32, int8, questions).write(target)


def _calibration_rows(kind: ModelKind, model: OnnxRuntime, items: Sequence[KnownItem]) -> Rows:
    if kind is ModelKind.ENCODER:
        return model.tokenizer.texts([text for item in items for text in (item.question, item.passage)])
    if kind is ModelKind.TOKENS:
        questions, passages = _late_rows(model, items)
        return [*questions, *passages]
    # Every question with its own passage and with another one: both ends of the scores.
    others = [*items[1:], items[0]]
    return [
        pair
        for item, other in zip(items, others, strict=True)
        for pair in model.tokenizer.pairs(item.question, [item.passage, other.passage])
    ]


def _write_graph(source: OnnxModel, rows: Rows, target: Path) -> None:
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(io.BytesIO(source.with_weights()))
    folding = Manager()
    folding.register_pass(ConstantFolding())  # nncf must see a matrix, not a matrix that is transposed first
    folding.run_passes(model)
    names = [graph_input.get_any_name() for graph_input in model.inputs]

    def feed(row: TokenizedText | TokenizedPair | LateText) -> dict[str, NDArray[np.int64]]:
        types = [row.type_ids] if isinstance(row, TokenizedPair) else None
        attended = [row.attended] if isinstance(row, LateText) else None
        arrays = feed_for([row.ids], types, source.spec.pad_token_id, attended=attended)
        return {name: arrays[name] for name in names}

    quantized = nncf.quantize(
        model,
        nncf.Dataset(rows, feed),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING)
        ),
    )
    openvino.save_model(quantized, target / GRAPH_FILE, compress_to_fp16=False)


def _encoder_quality(fp32: OnnxRuntime, int8: OpenVinoRuntime, items: Sequence[KnownItem]) -> Quality:
    items = items[:_ENCODER_ITEMS]
    questions = fp32.tokenizer.texts([item.question for item in items])
    passages = fp32.tokenizer.texts([item.passage for item in items])
    likenesses, found = [], []
    for model in (fp32, int8):
        vectors = [_unit(_run(model, rows)) for rows in (questions, passages)]
        likenesses.append(np.concatenate(vectors))
        similarity = vectors[0] @ vectors[1].T
        found.append(_mean_ndcg(similarity, range(len(items))))
    likeness = float((likenesses[0] * likenesses[1]).sum(axis=1).mean())
    return Quality(likeness, fp32_ndcg=found[0], int8_ndcg=found[1], instructions=int8_instructions())


def _cross_encoder_quality(fp32: OnnxRuntime, int8: OpenVinoRuntime, items: Sequence[KnownItem]) -> Quality:
    asked = items[:_CROSS_ENCODER_ITEMS]
    passages = [" ".join(item.passage.split()[:_CROSS_ENCODER_WORDS]) for item in items]
    bags = [set(passage.lower().split()) for passage in passages]
    pairs: list[TokenizedPair] = []
    for number, item in enumerate(asked):
        words = set(item.question.lower().split())
        # The right passage, and those that share most of the question's words.
        rivals = sorted(set(range(len(items))) - {number}, key=lambda other: (-len(words & bags[other]), other))
        candidates = [number, *rivals[: _CROSS_ENCODER_CANDIDATES - 1]]
        pairs += fp32.tokenizer.pairs(item.question, [passages[candidate] for candidate in candidates])
    scores = [_run(model, pairs)[:, 0] for model in (fp32, int8)]
    found = [_mean_ndcg(block.reshape(len(asked), -1), [0] * len(asked)) for block in scores]
    likeness = float(np.corrcoef(scores[0], scores[1])[0, 1])
    return Quality(likeness, fp32_ndcg=found[0], int8_ndcg=found[1], instructions=int8_instructions())


def _late_rows(model: OnnxRuntime, items: Sequence[KnownItem]) -> tuple[list[LateText], list[LateText]]:
    """Tokenize questions and passages as a late interaction model reads them."""
    questions = model.tokenizer.late_queries([item.question for item in items])
    return questions, model.tokenizer.late_passages([item.passage for item in items], _LATE_PASSAGE_TOKENS)


def _late_quality(fp32: OnnxRuntime, int8: OpenVinoRuntime, items: Sequence[KnownItem]) -> Quality:
    rows = _late_rows(fp32, items[:_LATE_ITEMS])
    likenesses, found = [], []
    for model in (fp32, int8):
        questions, passages = ([_unit(_late_states(model, row)) for row in part] for part in rows)
        likenesses.append(np.concatenate([*questions, *passages]))
        starts = np.cumsum([0, *(len(passage) for passage in passages[:-1])])
        together = np.concatenate(passages)
        similarity = [np.maximum.reduceat(question @ together.T, starts, axis=1).sum(0) for question in questions]
        found.append(_mean_ndcg(np.stack(similarity), range(len(questions))))
    likeness = float((likenesses[0] * likenesses[1]).sum(axis=1).mean())
    return Quality(likeness, fp32_ndcg=found[0], int8_ndcg=found[1], instructions=int8_instructions())


def _late_states(model: OnnxRuntime | OpenVinoRuntime, row: LateText) -> NDArray[np.float32]:
    """Compute the vectors of a text's tokens: [tokens, dimension]."""
    states: NDArray[np.float32] = model.run([row.ids], attended=[row.attended])[0, : row.token_count]
    return states


def _run(
    model: OnnxRuntime | OpenVinoRuntime, rows: Sequence[TokenizedText] | Sequence[TokenizedPair]
) -> NDArray[np.float32]:
    """Compute all rows in batches of similar length; the results are in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda position: rows[position].token_count)
    answers: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(order), _BATCH):
        positions = order[start : start + _BATCH]
        batch = [rows[position] for position in positions]
        types = [row.type_ids for row in batch if isinstance(row, TokenizedPair)]
        answers.update(zip(positions, model.run([row.ids for row in batch], types or None), strict=True))
    return np.stack([answers[position] for position in range(len(rows))])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _mean_ndcg(scores: NDArray[np.float32], relevant: Sequence[int]) -> float:
    """Compute the mean nDCG@10 of `scores` [questions, passages] with one relevant passage each, given its position."""
    ranks = [1 + int((row > row[position]).sum()) for row, position in zip(scores, relevant, strict=True)]
    return sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10) / len(ranks)


if __name__ == "__main__":
    kind, folder = ModelKind(sys.argv[1]), Path(sys.argv[3])
    try:
        found = ResolvedModel(sys.argv[2], kind, folder, "path", inherited(sys.argv[2]))
        source = OnnxModel.prepare(found, fingerprint_of(folder), Path(sys.argv[4]))
        quantize(kind, source, Path(sys.argv[5]), known_items())
    except StartupError as error:
        sys.exit(error.message)
