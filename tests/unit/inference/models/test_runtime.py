from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.errors import StartupError
from services.inference.models import runtime
from services.inference.models.info import Backend, Device, ModelKind, Precision
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime


def load(device: Device, backend: Backend, precision: Precision = "fp32") -> Runtime:
    options = ModelOptions(device=device, backend=backend, precision=precision, cache_dir=Path("/nonexistent"))
    return load_runtime("all-MiniLM-L6-v2", ModelKind.ENCODER, options)


def test_onnx_on_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(StartupError, match="onnx backend does not compute fp32 on cuda") as caught:
        load("cuda", "onnx")
    assert "torch" in caught.value.remedy


@pytest.mark.parametrize(
    ("backend", "precision", "way_out"),
    [("onnx", "int8", "openvino"), ("torch", "int8", "openvino"), ("onnx", "fp16", "torch")],
)
def test_a_backend_that_lacks_a_precision_is_refused_with_the_way_out(
    backend: Backend, precision: Precision, way_out: str
) -> None:
    with pytest.raises(StartupError, match=f"{backend} backend does not compute {precision} on cpu") as caught:
        load("cpu", backend, precision)
    assert way_out in caught.value.remedy


def test_int8_on_a_gpu_is_refused_with_the_way_out() -> None:
    with pytest.raises(StartupError, match="nothing computes int8 on cuda") as caught:
        load("cuda", "auto", "int8")
    assert "fp16" in caught.value.remedy


def test_a_missing_openvino_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _package: None)
    with pytest.raises(StartupError, match="needs openvino") as caught:
        load("cpu", "auto", "int8")
    assert "the extra int8" in caught.value.remedy


@pytest.mark.parametrize(("device", "backend"), [("cuda", "auto"), ("cpu", "torch")])
def test_a_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch, device: Device, backend: Backend) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _package: None)
    with pytest.raises(StartupError, match="needs torch and sentence_transformers") as caught:
        load(device, backend)
    assert "the extra reference" in caught.value.remedy


@pytest.mark.parametrize("problem", [PermissionError(13, "Permission denied"), ValueError("truncated header")])
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_files_that_cannot_be_read_are_an_error_with_a_remedy_on_every_engine(
    backend: Backend, problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_folder: Path) -> str:
        raise problem

    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).touch()
    for module in ("onnx", "openvino", "reference"):
        monkeypatch.setattr(f"services.inference.models.{module}.fingerprint_of", unreadable)
    precision: Precision = "int8" if backend == "openvino" else "fp32"
    options = ModelOptions(backend=backend, precision=precision, cache_dir=tmp_path / "cache")
    with pytest.raises(StartupError, match="cannot be computed by") as caught:
        load_runtime(str(tmp_path), ModelKind.ENCODER, options)
    assert "may read" in caught.value.remedy
