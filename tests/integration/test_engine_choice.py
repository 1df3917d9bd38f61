"""The choice of an engine: timed on the first start by a child process, kept, and never a slower precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from services.inference.choosing.choice import STANDARD, Candidate, Timing, fastest, timings_of
from services.inference.cpu import bf16_instructions
from services.inference.models import runtime
from services.inference.models.info import ModelKind
from services.inference.models.layout import fingerprint_of
from services.inference.models.quality import answers_of
from services.inference.models.resolver import ResolvedModel
from services.inference.models.runtime import ModelOptions, Runtime, load_runtime, open_runtime
from tests.integration import tiny_models

OPENVINO = Candidate("openvino", "fp32")
BF16 = Candidate("openvino", "bf16")
CANDIDATES = [STANDARD, OPENVINO, *([] if bf16_instructions() == "none" else [BF16])]
needs_bf16 = pytest.mark.skipif(bf16_instructions() == "none", reason="this processor has no bf16")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    folder = tiny_models.bert_encoder(tmp_path_factory.mktemp("models") / "tiny")
    return ResolvedModel("tiny", ModelKind.ENCODER, folder, "path")


@pytest.fixture(scope="session")
def cache(encoder: ResolvedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the engines were timed by a first start."""
    folder = tmp_path_factory.mktemp("cache")
    load(encoder, folder)
    return folder


def load(model: ResolvedModel, cache_dir: Path) -> Runtime:
    return load_runtime(str(model.folder), model.kind, ModelOptions(cache_dir=cache_dir, threads=2))


def kept_timings(model: ResolvedModel, cache_dir: Path) -> list[Timing]:
    return timings_of(model, CANDIDATES, fingerprint=fingerprint_of(model.folder), cache_dir=cache_dir, threads=2)


def served(loaded: Runtime) -> tuple[str, str]:
    return loaded.info.backend, loaded.info.precision


def given(monkeypatch: pytest.MonkeyPatch, rates: Mapping[Candidate, float]) -> None:
    def timings(_model: ResolvedModel, candidates: Sequence[Candidate], **_: object) -> list[Timing]:
        return [Timing(*each, single_ms=1, tokens_per_second=rates[each], likeness=1) for each in candidates]

    monkeypatch.setattr(runtime, "timings_of", timings)


def test_the_first_start_times_every_engine_and_the_next_one_takes_its_choice(
    encoder: ResolvedModel, cache: Path
) -> None:
    kept = {file: file.stat().st_mtime_ns for file in cache.glob("*-timings-*/*")}
    with capture_logs() as logged:
        loaded = load(encoder, cache)
    timings = kept_timings(encoder, cache)
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*-timings-*/*")} == kept
    assert [timing.candidate for timing in timings] == CANDIDATES
    assert served(loaded) == fastest(timings)
    (choice,) = [entry for entry in logged if entry["event"] == "engine chosen by measurement"]
    assert (choice["backend"], choice["precision"]) == served(loaded)
    assert set(choice["timings"]) == set(map(str, CANDIDATES))


@pytest.mark.parametrize("engine", [STANDARD, OPENVINO, pytest.param(BF16, marks=needs_bf16)])
def test_the_fastest_engine_serves_the_same_vectors(
    engine: Candidate, encoder: ResolvedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, {each: 2000 if each == engine else 1000 for each in CANDIDATES})
    loaded = load(encoder, cache)
    assert served(loaded) == engine
    standard = open_runtime(encoder, *STANDARD, threads=2, cache_dir=cache)
    assert loaded.info.fingerprint == standard.info.fingerprint
    expected = answers_of(standard, encoder.kind)
    tolerance = 0.02 if engine == BF16 else 1e-5
    np.testing.assert_allclose(answers_of(loaded, encoder.kind), expected, atol=tolerance * np.abs(expected).max())


@needs_bf16
def test_bf16_that_is_slower_than_fp32_never_serves(
    encoder: ResolvedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, {STANDARD: 1000, OPENVINO: 1050, BF16: 1040})
    assert served(load(encoder, cache)) == STANDARD


@needs_bf16
def test_a_row_in_bf16_is_the_same_to_the_bit_in_a_batch_of_its_width(encoder: ResolvedModel, cache: Path) -> None:
    loaded = open_runtime(encoder, *BF16, threads=2, cache_dir=cache)
    rows = [[2 + number] * length for number, length in enumerate((3, 9, 16, 12, 16))]
    together = loaded.run(rows)
    np.testing.assert_array_equal(together, np.concatenate([loaded.run([row]) for row in rows]))


def test_without_openvino_nothing_is_timed(
    encoder: ResolvedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda package: None if package == "openvino" else find_spec(package))
    given(monkeypatch, {})
    with capture_logs() as logged:
        assert served(load(encoder, cache)) == STANDARD
    assert "engine chosen by measurement" not in {entry["event"] for entry in logged}


def test_where_engines_cannot_be_timed_fp32_serves_and_the_log_says_why(
    encoder: ResolvedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.models.artifacts.BUILD_SECONDS", 0.01)
    monkeypatch.setattr("services.inference.choosing.choice.processor", lambda: "another processor")
    with capture_logs() as logged:
        assert served(load(encoder, cache)) == STANDARD
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert warning["event"] == "engines cannot be timed"
    assert "not finished" in warning["problem"]


def test_timings_that_cannot_be_kept_are_taken_anyway(encoder: ResolvedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # no folder can be made in it: root may write anywhere else
    timings = kept_timings(encoder, tmp_path / "file" / "cache")
    assert [timing.candidate for timing in timings] == CANDIDATES
    assert all(timing.tokens_per_second > 0 and timing.likeness > 0.99 for timing in timings)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=str)
def test_a_token_without_an_embedding_fails_on_every_engine(
    encoder: ResolvedModel, cache: Path, candidate: Candidate
) -> None:
    loaded = open_runtime(encoder, *candidate, cache_dir=cache, threads=2)
    with pytest.raises(Exception, match=r"indices|embeddings"):
        loaded.run([[2, 10**6, 3]])
