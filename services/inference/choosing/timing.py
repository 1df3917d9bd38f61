"""Times the engines that can serve a model on this processor, in interleaved rounds.

Called as `python -m services.inference.choosing.timing KIND NAME MODEL_FOLDER CACHE THREADS CANDIDATE... TARGET`. A
candidate is `BACKEND-PRECISION`, and the first is the one that all are compared with.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
from numpy.typing import NDArray

from services.chassis.errors import StartupError
from services.inference.choosing.choice import TIMINGS_FILE, Candidate, Timing
from services.inference.manifest import inherited
from services.inference.models.info import Backend, ModelKind, ModelSpec, Precision
from services.inference.models.quality import answers_of
from services.inference.models.resolver import ResolvedModel
from services.inference.models.runtime import Runtime, open_runtime
from services.inference.models.tokenization import Tokenizer

# A short query, and a pass with passages; both between two widths of engines that pad to steps.
_SINGLE_TOKENS = 12
_BATCH_ROWS, _BATCH_TOKENS = 4, 56
_SECONDS = 5.0
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 15
# Shapes are compiled, pages are read.
_WARM_ROUNDS = 2
_ROWS_IN_A_BATCH = 3


class _InBatches:
    """A runtime that computes each row in a batch of its copies."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.spec: ModelSpec = runtime.spec
        self.tokenizer: Tokenizer = runtime.tokenizer
        self.info = runtime.info
        self.width = runtime.width
        self.warm_up = runtime.warm_up

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """See `Runtime.run`."""
        types = type_ids and [*type_ids] * _ROWS_IN_A_BATCH
        ends = attended and [*attended] * _ROWS_IN_A_BATCH
        return self._runtime.run([*ids] * _ROWS_IN_A_BATCH, types, ends)[: len(ids)]


def time_candidates(
    model: ResolvedModel, candidates: Sequence[Candidate], cache_dir: Path, threads: int
) -> list[Timing]:
    """Load all candidates and time them, for about ten seconds; raise StartupError if one cannot be loaded."""
    runtimes = [open_runtime(model, *candidate, threads=threads, cache_dir=cache_dir) for candidate in candidates]
    # OpenVINO serves in as many passes at once as threads, see `OpenVinoRuntime`.
    passes = [threads if candidate.backend == "openvino" else 1 for candidate in candidates]
    token = runtimes[0].tokenizer.texts(["word"])[0].ids[0]
    single, batch = [[token] * _SINGLE_TOKENS], [[token] * _BATCH_TOKENS] * _BATCH_ROWS
    with ThreadPoolExecutor(threads) as pool:
        alone = _medians([partial(runtime.run, single) for runtime in runtimes], _SECONDS / 4)
        together = _medians(
            [partial(_passes, pool, runtime, [batch] * count) for runtime, count in zip(runtimes, passes, strict=True)],
            _SECONDS,
        )
    expected = answers_of(runtimes[0], model.kind)
    return [
        Timing(
            *candidate,
            single_ms=round(1000 * seconds, 2),
            tokens_per_second=round(count * _BATCH_ROWS * _BATCH_TOKENS / batch_seconds, 1),
            likeness=_likeness(runtime, expected, model.kind) if candidate.precision == "bf16" else 1.0,
        )
        for candidate, runtime, count, seconds, batch_seconds in zip(
            candidates, runtimes, passes, alone, together, strict=True
        )
    ]


def _passes(pool: ThreadPoolExecutor, runtime: Runtime, batches: Sequence[list[list[int]]]) -> None:
    """Compute all batches at the same time."""
    for _ in pool.map(runtime.run, batches):
        pass


def _medians(sides: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median time of each side over rounds, each second one backwards, for about so many seconds in all."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(_WARM_ROUNDS):
        for side in sides:
            side()
    end = time.perf_counter() + seconds
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
        for place in range(len(sides))[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            sides[place]()
            taken[place].append(time.perf_counter() - started)
    return [median(times) for times in taken]


def _likeness(runtime: Runtime, expected: NDArray[np.float32], kind: ModelKind) -> float:
    """See `Timing.likeness`."""
    return min(_alike(answers_of(each, kind), expected, kind) for each in (runtime, _InBatches(runtime)))


def _alike(answers: NDArray[np.float32], expected: NDArray[np.float32], kind: ModelKind) -> float:
    if kind is ModelKind.CROSS_ENCODER:
        return float(np.corrcoef(answers[:, 0], expected[:, 0])[0, 1])
    lengths = np.linalg.norm(answers, axis=-1) * np.linalg.norm(expected, axis=-1)
    return float(((answers * expected).sum(axis=-1) / lengths).mean())


def _candidate(text: str) -> Candidate:
    backend, precision = text.split("-")
    return Candidate(cast(Backend, backend), cast(Precision, precision))


if __name__ == "__main__":
    kind, name, folder, cache_dir, threads, *wanted, target = sys.argv[1:]
    found = ResolvedModel(name, ModelKind(kind), Path(folder), "path", inherited(name))
    try:
        timings = time_candidates(found, [_candidate(text) for text in wanted], Path(cache_dir), int(threads))
    except StartupError as error:
        sys.exit(error.message)
    Path(target, TIMINGS_FILE).write_text(json.dumps([asdict(timing) for timing in timings]), encoding="utf-8")
