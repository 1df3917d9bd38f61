from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.inference.choosing.choice import Candidate, Timing, fastest
from services.inference.models.info import Backend, Precision

STANDARD = Timing("onnx", "fp32", single_ms=5, tokens_per_second=1000, likeness=1)


def timing(backend: Backend, precision: Precision, rate: float, *, single_ms: float = 5, likeness: float = 1) -> Timing:
    return Timing(backend, precision, single_ms=single_ms, tokens_per_second=rate, likeness=likeness)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([], ("onnx", "fp32"), id="alone"),
        pytest.param([timing("openvino", "fp32", 1300)], ("openvino", "fp32"), id="faster"),
        pytest.param([timing("openvino", "fp32", 1050)], ("onnx", "fp32"), id="hardly faster"),
        pytest.param([timing("openvino", "fp32", 1300, single_ms=7)], ("onnx", "fp32"), id="a query alone is slower"),
        pytest.param(
            [timing("openvino", "fp32", 1050), timing("openvino", "bf16", 2100)], ("openvino", "bf16"), id="bf16"
        ),
        pytest.param(
            [timing("openvino", "fp32", 1300), timing("openvino", "bf16", 2100, likeness=0.99)],
            ("openvino", "fp32"),
            id="bf16 is too unlike",
        ),
        pytest.param(
            [timing("openvino", "fp32", 1300), timing("openvino", "bf16", 1250)],
            ("openvino", "fp32"),
            id="bf16 is slower than fp32 of the same engine",
        ),
        pytest.param(
            [timing("openvino", "bf16", 2100), timing("openvino", "int8", 3000)], ("openvino", "int8"), id="int8"
        ),
        pytest.param([timing("openvino", "int8", 810)], ("onnx", "fp32"), id="int8 is slower"),
        pytest.param(
            [timing("openvino", "fp32", 1500, single_ms=7), timing("openvino", "int8", 1400)],
            ("onnx", "fp32"),
            id="int8 is slower than an engine in fp32 that is too slow for a query alone",
        ),
    ],
)
def test_the_fastest_engine_serves_that_makes_neither_a_query_nor_fp32_wait(
    others: Sequence[Timing], expected: tuple[Backend, Precision]
) -> None:
    assert fastest([STANDARD, *others]) == fastest([*others, STANDARD]) == Candidate(*expected)
