"""The fastest engine for a model on this processor: timed once by a child process, then kept.

An engine serves if it is faster in batches and no query pays for it: texts come alone, too. All are compared with ONNX
Runtime in fp32. It stays unless another is clearly faster, because it compiles nothing at the start.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.cpu import processor
from services.inference.manifest import Vouched
from services.inference.models.artifacts import built_once
from services.inference.models.info import Backend, Precision
from services.inference.models.resolver import ResolvedModel

TIMINGS_FILE = "timings.json"
# Part of the key of what is kept: raise it when engines are timed otherwise.
_TIMING_VERSION = 1
_PACKAGES = ("onnxruntime", "openvino")
_LEAST_GAIN = 1.1
_MOST_SINGLE_GAIN = 1.25
# See `Timing.likeness`. Measured for bf16: .99998 for all-MiniLM-L6-v2, .99994 for ms-marco-MiniLM-L-12-v2.
_LEAST_LIKENESS = {"bf16": 0.999}

_log = logs.get_logger("models")


class Candidate(NamedTuple):
    """An engine in one precision."""

    backend: Backend
    precision: Precision

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


STANDARD = Candidate("onnx", "fp32")


@dataclass(frozen=True, slots=True)
class Timing:
    """Speed and exactness of a candidate, on one processor."""

    backend: Backend
    precision: Precision
    single_ms: float
    """Median time of a short text alone."""
    tokens_per_second: float
    """Median rate in batches, in as many passes at once as serve."""
    likeness: float
    """Of vectors, the mean cosine to those of fp32; of scores, their correlation.

    The smaller one of rows that are computed alone, and in a batch.
    """

    @property
    def candidate(self) -> Candidate:
        """The engine."""
        return Candidate(self.backend, self.precision)


def fastest(timings: Sequence[Timing]) -> Candidate:
    """Choose among timed candidates, of which one is `STANDARD`; those with a quality gate have passed it.

    A lower precision serves only if it is faster than every engine in fp32, and like enough to it.
    """
    (standard,) = (timing for timing in timings if timing.candidate == STANDARD)
    fp32 = max(timing.tokens_per_second for timing in timings if timing.precision == "fp32")
    able = [
        timing
        for timing in timings
        if timing.tokens_per_second >= _LEAST_GAIN * standard.tokens_per_second
        and timing.single_ms <= _MOST_SINGLE_GAIN * standard.single_ms
        and (timing.precision == "fp32" or timing.tokens_per_second > fp32)
        and timing.likeness >= _LEAST_LIKENESS.get(timing.precision, 0)
    ]
    return max(able, key=lambda timing: timing.tokens_per_second, default=standard).candidate


def timings_of(
    model: ResolvedModel, candidates: Sequence[Candidate], *, fingerprint: str, cache_dir: Path, threads: int
) -> list[Timing]:
    """Return the kept timings of these candidates, or time them now, for seconds; raise StartupError."""
    key = [processor(), *map(_version, _PACKAGES), str(threads), *map(str, candidates)]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:12]
    name = model.artifact(f"timings-{digest}", _TIMING_VERSION, fingerprint)
    arguments = [model.kind, model.name, str(model.folder), str(cache_dir), str(threads), *map("-".join, candidates)]
    try:
        return _timed_once(cache_dir / name, arguments, model.vouched)
    except StartupError as error:  # an image's cache is read-only
        _log.info("timings of engines are not kept", reason=error.message)
        with tempfile.TemporaryDirectory() as scratch:
            return _timed_once(Path(scratch, name), arguments, None)


def _timed_once(folder: Path, arguments: Sequence[str], vouched: Vouched | None) -> list[Timing]:
    built_once(
        folder, "services.inference.choosing.timing", arguments, needs=(), extra="", otherwise="", vouched=vouched
    )
    return [Timing(**timing) for timing in json.loads((folder / TIMINGS_FILE).read_text(encoding="utf-8"))]


def log_choice(chosen: Candidate, timings: Sequence[Timing]) -> None:
    """Tell which engine serves, and how fast all of them were."""
    _log.info(
        "engine chosen by measurement",
        backend=chosen.backend,
        precision=chosen.precision,
        timings={
            str(timing.candidate): f"{timing.tokens_per_second:.0f} tokens/s, alone {timing.single_ms:.1f} ms"
            for timing in timings
        },
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
