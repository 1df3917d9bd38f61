from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.inference.models.quality import PrecisionRefused, Quality, QualityGate

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
