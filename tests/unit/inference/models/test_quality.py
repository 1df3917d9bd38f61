from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.inference.models.info import ModelInfo, ModelSpec
from services.inference.models.quality import PrecisionRefused, Quality, QualityGate, problem_of_answers

GOOD = Quality(likeness=0.997, fp32_ndcg=0.6, int8_ndcg=0.6, instructions="avx2")


def test_a_model_that_lost_little_passes_the_gate() -> None:
    QualityGate().check(replace(GOOD, likeness=0.99, int8_ndcg=0.595))


@pytest.mark.parametrize("lost", [{"likeness": 0.98}, {"int8_ndcg": 0.593}, {"likeness": float("nan")}])
def test_the_gate_refuses_a_model_that_lost_too_much(lost: dict[str, float]) -> None:
    with pytest.raises(PrecisionRefused, match=r"fails the quality gate.*measured with avx2") as caught:
        QualityGate().check(replace(GOOD, **lost))
    assert "fp32" in caught.value.remedy


def test_the_quality_is_kept_next_to_the_model(tmp_path: Path) -> None:
    GOOD.write(tmp_path)
    assert Quality.read(tmp_path) == GOOD


def model_info(precision: str = "fp32") -> ModelInfo:
    spec = ModelSpec(dimension=2, max_token_count=8, pad_token_id=0, prompts={})
    return spec.info(name="m", fingerprint="", backend="onnx", precision=precision, device="cpu")


RIGHT = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)


def test_answers_like_those_of_the_reference_are_right_within_the_noise_of_their_precision() -> None:
    assert problem_of_answers(RIGHT * 1.0001, model_info(), RIGHT) is None
    assert problem_of_answers(RIGHT * 1.01, model_info("fp16"), RIGHT) is None
    assert problem_of_answers(RIGHT, model_info(), None) is None


@pytest.mark.parametrize(
    ("answers", "expected", "complaint"),
    [
        (RIGHT * 1.01, RIGHT, "differs from that of sentence-transformers by 0.01"),
        (RIGHT[::-1], RIGHT, "differs"),
        (RIGHT, RIGHT * np.nan, "differs"),
        (RIGHT, RIGHT[:1], "the shape"),
        (RIGHT * np.nan, None, "not finite"),
        (np.where(RIGHT == 4, np.inf, RIGHT), None, "not finite"),
        (RIGHT[:, :1], None, "2 columns"),
    ],
)
def test_answers_that_are_wrong_are_told(
    answers: NDArray[np.float32], expected: NDArray[np.float32] | None, complaint: str
) -> None:
    assert complaint in (problem_of_answers(answers, model_info(), expected) or "")
