from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import StartupError
from services.common.models import runtime
from services.common.models.info import ModelKind
from services.common.models.runtime import Backend, Device, Runtime, load_runtime


def load(device: Device, backend: Backend) -> Runtime:
    return load_runtime(
        "all-MiniLM-L6-v2",
        ModelKind.ENCODER,
        device=device,
        backend=backend,
        model_dir=None,
        cache_dir=Path("/nonexistent"),
        threads=1,
    )


def test_onnx_on_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(StartupError, match="onnx backend runs on cpu") as caught:
        load("cuda", "onnx")
    assert "torch" in caught.value.remedy


@pytest.mark.parametrize(("device", "backend"), [("cuda", "auto"), ("cpu", "torch")])
def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch, device: Device, backend: Backend) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _package: None)
    with pytest.raises(StartupError, match="needs torch and sentence_transformers") as caught:
        load(device, backend)
    assert "sluice[torch]" in caught.value.remedy
