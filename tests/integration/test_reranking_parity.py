"""The fast backend against sentence-transformers' CrossEncoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind
from services.inference.models.onnx import OnnxModel, OnnxRuntime
from services.inference.models.resolver import resolve_model
from services.inference.models.runtime import ModelOptions
from services.reranker.backends import CrossEncoderBackend, ModelBackend, load_cross_encoder_backend
from tests.integration import tiny_models
from tests.integration.conftest import RERANK_MODEL

QUESTIONS = {
    "how do I run a function in a pool of worker threads": "ThreadPoolExecutor runs calls in a pool of threads.",
    "parse command line options": "argparse parses the arguments given to a program on the command line.",
    "round a number to the nearest even digit": "ROUND_HALF_EVEN rounds to the nearest, with ties to the even digit.",
    "compare two files line by line": "difflib finds the lines that differ between two files.",
}


def predict(reference: CrossEncoder, query: str, passages: Sequence[str]) -> np.ndarray:
    return reference.predict([(query, passage) for passage in passages], activation_fn=torch.nn.Identity())


def score(backend: CrossEncoderBackend, query: str, passages: Sequence[str]) -> np.ndarray:
    return backend.score(backend.tokenize(query, passages))


@pytest.fixture(scope="session")
def reference(options: ModelOptions) -> CrossEncoder:
    model = resolve_model(
        RERANK_MODEL, ModelKind.CROSS_ENCODER, model_dir=options.model_dir, cache_dir=options.cache_dir
    )
    return CrossEncoder(str(model.folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="session")
def cases(mixed_texts: list[str]) -> list[tuple[str, list[str]]]:
    """Questions, one of them empty and one longer than the model reads, each with passages of mixed length."""
    queries = [*QUESTIONS, "", mixed_texts[8], max(mixed_texts, key=lambda text: len(text.split()))]
    return [(query, mixed_texts[at::25]) for at, query in enumerate(queries)]


def test_scores_equal_those_of_sentence_transformers(
    cross_encoder: CrossEncoderBackend, reference: CrossEncoder, cases: list[tuple[str, list[str]]]
) -> None:
    for query, passages in cases:
        np.testing.assert_allclose(
            score(cross_encoder, query, passages), predict(reference, query, passages), atol=1e-4
        )


def test_pairs_are_those_of_the_models_tokenizer(
    cross_encoder: CrossEncoderBackend, reference: CrossEncoder, cases: list[tuple[str, list[str]]]
) -> None:
    for query, passages in cases:
        pairs = cross_encoder.tokenize(query, passages)
        expected = reference.tokenizer([query] * len(passages), passages, truncation="longest_first")
        whole = reference.tokenizer([query] * len(passages), passages, truncation=False)["input_ids"]
        assert [pair.ids for pair in pairs] == expected["input_ids"]
        assert [pair.type_ids for pair in pairs] == expected["token_type_ids"]
        assert [pair.truncated for pair in pairs] == [len(ids) > reference.max_seq_length for ids in whole]


def test_a_score_never_depends_on_its_batch(cross_encoder: CrossEncoderBackend, mixed_texts: list[str]) -> None:
    chance = random.Random(1)
    pairs = cross_encoder.tokenize("compare two files line by line", chance.sample(mixed_texts, 8))
    alone = np.concatenate([cross_encoder.score([pair]) for pair in pairs])
    for size in (2, 3, 8):
        chosen = chance.sample(range(len(pairs)), size)
        np.testing.assert_allclose(cross_encoder.score([pairs[i] for i in chosen]), alone[chosen], atol=1e-4)


def test_the_torch_backend_is_the_same_model(cross_encoder: CrossEncoderBackend, options: ModelOptions) -> None:
    backend = load_cross_encoder_backend(RERANK_MODEL, replace(options, backend="torch"))
    passages = list(QUESTIONS.values())
    for query in QUESTIONS:
        np.testing.assert_allclose(score(backend, query, passages), score(cross_encoder, query, passages), atol=1e-4)
    assert backend.model.fingerprint == cross_encoder.model.fingerprint
    assert (backend.model.name, backend.model.dimension) == ("cross-encoder/ms-marco-MiniLM-L-12-v2", 1)


def test_the_answer_is_ranked_first(cross_encoder: CrossEncoderBackend, mixed_texts: list[str]) -> None:
    passages = [*QUESTIONS.values(), *mixed_texts[10:16]]
    for answer, query in enumerate(QUESTIONS):
        assert score(cross_encoder, query, passages).argmax() == answer


@pytest.mark.parametrize(
    "make",
    [
        tiny_models.bert_cross_encoder,
        tiny_models.electra_cross_encoder,
        tiny_models.roberta_cross_encoder,
        tiny_models.mpnet_cross_encoder,
    ],
)
def test_other_architectures_score_alike(make: Callable[[Path], Path], tmp_path: Path, mixed_texts: list[str]) -> None:
    folder = make(tmp_path / "model")
    model = OnnxModel.build(folder, ModelKind.CROSS_ENCODER)
    backend = ModelBackend(OnnxRuntime(model, name="tiny", fingerprint="", threads=1))
    reference = CrossEncoder(str(folder), device="cpu")
    for query in ("parse command line options", " ".join(mixed_texts[-3:])):
        np.testing.assert_allclose(
            score(backend, query, mixed_texts[:14]), predict(reference, query, mixed_texts[:14]), atol=1e-5
        )


def test_a_model_with_several_outputs_is_refused(tmp_path: Path, options: ModelOptions) -> None:
    folder = tiny_models.electra_cross_encoder(tmp_path / "nli", outputs=3)
    with pytest.raises(StartupError, match="it has 3 outputs"):
        load_cross_encoder_backend(str(folder), options)
