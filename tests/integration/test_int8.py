"""Static int8: accepted or refused by its quality, and the same whatever is computed with it, on any processor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.chassis.metrics import ServerMetrics
from services.chassis.server import serving
from services.chassis.settings import StageSettings
from services.embedder.backends import EmbeddingBackend, ModelBackend, TextKind
from services.embedder.token_backends import load_token_backend
from services.inference.choosing.choice import Candidate, Timing
from services.inference.metrics import InferenceMetrics
from services.inference.models import openvino, runtime
from services.inference.models.info import ModelKind
from services.inference.models.known_items import KnownItem
from services.inference.models.onnx import OnnxModel
from services.inference.models.openvino import OpenVinoRuntime
from services.inference.models.quality import PrecisionRefused, Quality, QualityGate
from services.inference.models.quantize import quantize
from services.inference.models.resolver import ResolvedModel, resolve_model
from services.inference.models.runtime import ModelOptions
from services.inference.scheduling import SchedulerLimits, SchedulerObserver
from services.inference.stage import warm_stage
from services.reranker.backends import CrossEncoderBackend, load_cross_encoder_backend
from services.reranker.metrics import RerankerMetrics
from services.reranker.scorer import Scorer
from services.reranker.servicer import RerankerServicer
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc
from tests.integration import tiny_models
from tests.integration.conftest import EMBEDDING_MODEL

ANY_QUALITY = QualityGate(least_likeness=-1, most_ndcg_loss=1)
NO_QUALITY = QualityGate(least_likeness=1.01)
FEW_ITEMS = [KnownItem(text[:60], text[60:800]) for text in list(topics.values())[:60]]


@pytest.fixture(scope="session")
def quantized(options: ModelOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real all-MiniLM-L6-v2 in int8, calibrated and measured on few texts."""
    model = resolve_model(EMBEDDING_MODEL, ModelKind.ENCODER, model_dir=options.model_dir, cache_dir=options.cache_dir)
    fp32 = OnnxModel.build(model.folder, ModelKind.ENCODER)
    folder = tmp_path_factory.mktemp("int8")
    quantize(ModelKind.ENCODER, fp32, folder, FEW_ITEMS)
    return folder


@pytest.fixture(scope="session")
def int8(quantized: Path) -> EmbeddingBackend:
    return ModelBackend(OpenVinoRuntime.read(quantized, name=EMBEDDING_MODEL, fingerprint="", threads=2))


@pytest.fixture(scope="session")
def alone(int8: EmbeddingBackend, mixed_texts: list[str]) -> np.ndarray:
    return np.concatenate([int8.embed([text]) for text in int8.tokenize(mixed_texts, TextKind.DOCUMENT)])


def test_int8_is_as_like_fp32_for_other_texts_as_its_gate_was_told(
    quantized: Path, embedder: EmbeddingBackend, alone: np.ndarray, mixed_texts: list[str]
) -> None:
    fp32 = np.concatenate([embedder.embed([text]) for text in embedder.tokenize(mixed_texts, TextKind.DOCUMENT)])
    assert np.sum(fp32 * alone, axis=1).mean() == pytest.approx(Quality.read(quantized).likeness, abs=0.01)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True))
def test_an_int8_vector_is_the_same_to_the_bit_whatever_it_is_computed_with(
    int8: EmbeddingBackend, alone: np.ndarray, mixed_texts: list[str], chosen: list[int]
) -> None:
    tokenized = int8.tokenize([mixed_texts[number] for number in chosen], TextKind.DOCUMENT)
    width = int8.width(tokenized[0].token_count)
    # The scheduler puts rows of one width together.
    together = [at for at, text in enumerate(tokenized) if int8.width(text.token_count) == width]
    vectors = int8.embed([tokenized[at] for at in together])
    np.testing.assert_array_equal(vectors, alone[[chosen[at] for at in together]])


# From here on, a small model on the whole way: a child process makes it, and the gate accepts or refuses it.


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.electra_cross_encoder(tmp_path_factory.mktemp("models") / "small"))


@pytest.fixture(scope="session")
def wanting_int8(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    """Options that ask for int8 of any quality, with a cache in which the small model is made already."""
    options = ModelOptions(precision="int8", gate=ANY_QUALITY, cache_dir=tmp_path_factory.mktemp("cache"))
    load_cross_encoder_backend(small_model, replace(options, backend="openvino"))
    return options


@pytest.fixture(autouse=True)
def int8_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given timings, so that nothing here depends on the processor: see test_engine_choice.py for measured ones."""
    rates = {"fp32": 1000, "bf16": 1050, "int8": 2000}

    def timings(_model: ResolvedModel, candidates: Sequence[Candidate], **_: object) -> list[Timing]:
        return [Timing(*each, single_ms=5, tokens_per_second=rates[each.precision], likeness=1) for each in candidates]

    monkeypatch.setattr(runtime, "timings_of", timings)


def served(backend: CrossEncoderBackend) -> tuple[str, str]:
    return backend.model.backend, backend.model.precision


def contents(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"}


def test_int8_that_passes_its_gate_serves(small_model: str, wanting_int8: ModelOptions) -> None:
    int8 = load_cross_encoder_backend(small_model, wanting_int8)
    fp32 = load_cross_encoder_backend(small_model, replace(wanting_int8, precision="fp32"))
    assert (served(int8), served(fp32)) == (("openvino", "int8"), ("onnx", "fp32"))
    assert int8.model.fingerprint == fp32.model.fingerprint


def test_where_int8_is_refused_fp32_serves_and_the_log_says_why(small_model: str, wanting_int8: ModelOptions) -> None:
    with capture_logs() as logged:
        backend = load_cross_encoder_backend(small_model, replace(wanting_int8, gate=NO_QUALITY))
    assert served(backend) == ("onnx", "fp32")
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert "int8 is refused on this processor" in warning["event"]
    assert "at least 1.01" in warning["problem"]


async def test_a_stage_whose_int8_is_refused_tells_its_callers_and_operators(
    small_model: str, wanting_int8: ModelOptions
) -> None:
    registry = CollectorRegistry()
    metrics = RerankerMetrics(registry)
    backend = load_cross_encoder_backend(small_model, replace(wanting_int8, gate=NO_QUALITY))
    scorer = Scorer(backend, SchedulerLimits(), SchedulerObserver())
    servicer = RerankerServicer(scorer, metrics)
    metrics.describe(backend.model)
    async with (
        warm_stage(
            scorer,
            InferenceMetrics(registry),
            precision=wanting_int8.precision,
            service=reranker_pb2.DESCRIPTOR.services_by_name["RerankerService"],
            register=lambda server: reranker_pb2_grpc.add_RerankerServiceServicer_to_server(servicer, server),
        ) as stage,
        serving(stage, StageSettings(grpc_port=0, drain_seconds=0), ServerMetrics(registry)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = reranker_pb2_grpc.RerankerServiceStub(channel)
        request = reranker_pb2.RerankPassagesRequest(query="a question", passages=["a passage"])
        reply = await stub.RerankPassages(request, timeout=30)
        described = await stub.GetModel(reranker_pb2.GetModelRequest(), timeout=30)
    assert (reply.model.backend, reply.model.precision) == ("onnx", "fp32")
    assert described.model == reply.model
    assert registry.get_sample_value("sluice_precision_refused") == 1


def test_an_engine_that_was_named_is_never_replaced(small_model: str, wanting_int8: ModelOptions) -> None:
    with pytest.raises(PrecisionRefused, match="fails the quality gate"):
        load_cross_encoder_backend(small_model, replace(wanting_int8, gate=NO_QUALITY, backend="openvino"))


def test_a_model_that_was_refused_is_not_made_again(small_model: str, wanting_int8: ModelOptions) -> None:
    before = contents(wanting_int8.cache_dir)
    load_cross_encoder_backend(small_model, replace(wanting_int8, gate=NO_QUALITY))
    assert contents(wanting_int8.cache_dir) == before


def test_quality_that_was_measured_on_another_kind_of_processor_is_logged(
    small_model: str, wanting_int8: ModelOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "int8_instructions", lambda: "another")
    with capture_logs() as logged:
        load_cross_encoder_backend(small_model, wanting_int8)
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert "another kind of processor" in warning["event"]


def test_serving_int8_imports_neither_torch_nor_nncf(small_model: str, wanting_int8: ModelOptions) -> None:
    program = f"""
import json, sys
from pathlib import Path
from services.inference.models.quality import QualityGate
from services.inference.models.runtime import ModelOptions
from services.reranker.backends import load_cross_encoder_backend
options = ModelOptions(
    backend="openvino", precision="int8", gate={ANY_QUALITY!r}, cache_dir=Path({str(wanting_int8.cache_dir)!r})
)
backend = load_cross_encoder_backend({small_model!r}, options)
backend.score(backend.tokenize("a question", ["a passage"]))
print(json.dumps([name for name in ("torch", "transformers", "onnx", "nncf", "sklearn") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_an_int8_model_that_was_brought_along_needs_no_export(
    small_model: str, wanting_int8: ModelOptions, tmp_path: Path
) -> None:
    (made,) = wanting_int8.cache_dir.glob("*-int8-*/")
    shutil.copytree(made, tmp_path / made.name)
    brought = load_cross_encoder_backend(small_model, replace(wanting_int8, cache_dir=tmp_path))
    assert served(brought) == ("openvino", "int8")
    assert [entry.name for entry in tmp_path.glob("*-int8-*")] == [made.name]


@pytest.fixture(scope="session")
def late_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.late_bert(tmp_path_factory.mktemp("models") / "late"))


def test_token_vectors_in_int8_are_those_of_the_same_tokens(late_model: str, wanting_int8: ModelOptions) -> None:
    backends = [
        load_token_backend(late_model, replace(wanting_int8, precision=precision), 60, pseudo=False)
        for precision in ("int8", "fp32")
    ]
    int8, fp32 = (backend for backend in backends if backend is not None)
    assert (int8.model.precision, int8.model.fingerprint) == ("int8", fp32.model.fingerprint)
    for kind in TextKind:
        texts = int8.tokenize(["a question", " ".join(item.passage for item in FEW_ITEMS[:3])], kind)
        for own, others in zip(int8.embed(texts), fp32.embed(texts), strict=True):
            assert own.shape == others.shape


def test_a_token_model_whose_int8_is_refused_serves_all_the_same(late_model: str, wanting_int8: ModelOptions) -> None:
    backend = load_token_backend(late_model, replace(wanting_int8, gate=NO_QUALITY), 60, pseudo=False)
    assert backend is not None
    assert backend.model.precision == "fp32"
