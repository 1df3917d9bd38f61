"""Token vectors of the fast backend against transformers, and with the real model."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from services.chassis.errors import StartupError
from services.embedder.backends import TextKind
from services.embedder.token_backends import MOST_ROWS, TokenBackend, load_token_backend
from services.inference.models.info import ModelKind
from services.inference.models.onnx import OnnxModel, OnnxRuntime
from services.inference.models.runtime import Backend, ModelOptions
from services.inference.models.tokenization import LateText
from services.late.codes import Codes, similarity
from tests.integration import tiny_models
from tests.integration.conftest import TOKEN_MODEL
from tests.maxsim import maxsim

QUESTIONS = {
    "how do I run a function in a pool of worker threads": "ThreadPoolExecutor runs calls in a pool of threads.",
    "parse command line options": "argparse parses the arguments given to a program on the command line.",
    "round a number to the nearest even digit": "ROUND_HALF_EVEN rounds to the nearest, with ties to the even digit.",
    "compare two files line by line": "difflib finds the lines that differ between two files.",
}


def states_of(runtime: OnnxRuntime, rows: Sequence[LateText]) -> list[np.ndarray]:
    states = runtime.run([row.ids for row in rows], attended=[row.attended for row in rows])
    return [block[: row.token_count] for block, row in zip(states, rows, strict=True)]


def codes_of(backend: TokenBackend, texts: Sequence[str], kind: TextKind) -> list[Codes]:
    return [backend.embed([text])[0] for text in backend.tokenize(texts, kind)]


@pytest.mark.parametrize(("projection", "dimension"), [(None, 64), (24, 24)])
def test_states_equal_those_of_transformers_alone_and_in_a_batch(
    projection: int | None, dimension: int, tmp_path: Path, mixed_texts: list[str]
) -> None:
    folder = tiny_models.late_bert(tmp_path / "model", projection)
    runtime = OnnxRuntime(OnnxModel.build(folder, ModelKind.TOKENS), name="tiny", fingerprint="", threads=1)
    reference = AutoModel.from_pretrained(folder).eval()
    matrix = load_file(folder / "model.safetensors").get("linear.weight", torch.eye(64))
    texts = mixed_texts[:14]
    rows = [*runtime.tokenizer.late_queries(texts), *runtime.tokenizer.late_passages(texts, 100)]
    for row, together in zip(rows, states_of(runtime, rows), strict=True):
        mask = [1] * row.attended + [0] * (row.token_count - row.attended)
        with torch.inference_mode():
            states = reference(torch.tensor([row.ids]), torch.tensor([mask])).last_hidden_state[0]
        expected = (states @ matrix.T).numpy()
        assert expected.shape[1] == runtime.spec.dimension == dimension
        np.testing.assert_allclose(states_of(runtime, [row])[0], expected, atol=1e-4)
        np.testing.assert_allclose(together, expected, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_folder_from_the_hub_is_served_with_its_projection_by_every_engine(
    engine: Backend, tmp_path: Path, options: ModelOptions
) -> None:
    folder = tiny_models.late_bert(tmp_path / "answerai-colbert-small-v1", projection=24)
    (folder / "artifact.metadata").write_text(json.dumps({"query_token_id": "[unused0]", "dim": 24}))
    backend = load_token_backend(TOKEN_MODEL, replace(options, backend=engine, model_dir=tmp_path), 40, pseudo=False)
    assert backend is not None
    model = backend.model
    assert (model.name, model.backend) == ("answerdotai/answerai-colbert-small-v1", engine)
    assert (model.dimension, model.max_token_count) == (25, 40)
    long, short = codes_of(backend, ["word " * 60, "a"], TextKind.DOCUMENT)
    assert (long.shape, short.shape) == ((20, 25), (2, 25))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_model_that_is_fed_in_another_way_is_refused_at_start(
    engine: Backend, tmp_path: Path, options: ModelOptions
) -> None:
    folder = tiny_models.late_bert(tmp_path / "model")
    (folder / "artifact.metadata").write_text('{"attend_to_mask_tokens": true}')
    with pytest.raises(StartupError, match="attend_to_mask_tokens") as refused:
        load_token_backend(str(folder), replace(options, backend=engine), 40, pseudo=False)
    assert "TOKEN_MODEL" in refused.value.remedy


def test_the_answer_is_nearest_to_its_question(token_model: TokenBackend, mixed_texts: list[str]) -> None:
    passages = codes_of(token_model, [*QUESTIONS.values(), *mixed_texts[10:20]], TextKind.DOCUMENT)
    for answer, query in enumerate(codes_of(token_model, list(QUESTIONS), TextKind.QUERY)):
        scores = [similarity(maxsim(query, passage), len(query), token_model.model.dimension) for passage in passages]
        assert np.argmax(scores) == answer
        assert 0.5 < max(scores) < 1


def test_a_similarity_never_depends_on_the_batch_of_its_sides(
    token_model: TokenBackend, mixed_texts: list[str]
) -> None:
    chance = random.Random(1)
    dimension = token_model.model.dimension
    texts = chance.sample(mixed_texts, 8)
    rows = token_model.tokenize(texts, TextKind.DOCUMENT)
    (query,) = codes_of(token_model, ["compare two files line by line"], TextKind.QUERY)
    alone = [similarity(maxsim(query, token_model.embed([row])[0]), len(query), dimension) for row in rows]
    together = [similarity(maxsim(query, codes), len(query), dimension) for codes in token_model.embed(rows)]
    # Rounding to bytes may turn noise of fp32 into a step, of some values in a hundred.
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_passages_stay_small_and_tell_what_was_cut(token_model: TokenBackend, mixed_texts: list[str]) -> None:
    rows = token_model.tokenize(mixed_texts, TextKind.DOCUMENT)
    sizes = {row.token_count: len(token_model.embed([row])[0]) for row in rows[:14]}
    assert all(size == max(1, min(count // 2, MOST_ROWS)) for count, size in sizes.items())
    assert max(row.token_count for row in rows) == 180
    assert [row.token_count == 180 for row in rows if row.truncated] == [True] * sum(row.truncated for row in rows)
    assert MOST_ROWS * token_model.model.dimension < 10_000
