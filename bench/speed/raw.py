"""The model in-process, as fast as it goes when everything is known beforehand: what serving is measured against.

The same backend that the stage loads, with the same settings; texts sorted by length; the best way of cutting them into
batches, searched for; tokenization included. In a process of its own, so that it has the same threads to itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bench.speed.workload import Question

ROWS = (1, 2, 4, 8, 16, 32)
PADDED_TOKENS = (128, 192, 256, 384, 512, 768, 1024, 2048)
_RETRIALS, _FINALISTS = 2, 4


@dataclass(frozen=True, slots=True)
class Cut:
    """A way to cut sorted rows into batches: by rows, or by padded tokens."""

    rows: int = 1_000_000
    padded_tokens: int = 1_000_000

    def batches(self, lengths: Sequence[int]) -> Iterator[slice]:
        """Of rows with these lengths, shortest first."""
        start = 0
        for end, length in enumerate(lengths):
            size = end - start + 1
            if end > start and (size > self.rows or size * length > self.padded_tokens):
                yield slice(start, end)
                start = end
        yield slice(start, len(lengths))

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.rows < 1_000_000 else f"{self.padded_tokens} padded tokens"


_CUT_FOR_VECTORS = Cut(padded_tokens=512)
CUTS = (*(Cut(rows=rows) for rows in ROWS), *(Cut(padded_tokens=tokens) for tokens in PADDED_TOKENS))


class RawProcess:
    """A process that holds one model. `kind` is the stage whose model it is; a context manager."""

    def __init__(self, kind: str, environment: Mapping[str, str] | None = None) -> None:
        self._executor = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_load, initargs=(kind, dict(environment or {}))
        )

    def __enter__(self) -> Self:
        self._executor.submit(_ready).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def best_cut(self, inputs: Sequence[str] | Sequence[Question]) -> tuple[Cut, dict[str, float]]:
        """The cut with the highest rate, and the rates of all."""
        return self._executor.submit(_best_cut, inputs).result()

    def rate(self, inputs: Sequence[str] | Sequence[Question], cut: Cut) -> float:
        """Rows a second, tokenization included."""
        return self._executor.submit(_rate, inputs, cut).result()

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embedder's vectors, in the order of the texts."""
        return self._executor.submit(_vectors, texts).result()

    def milliseconds(self, texts: Sequence[str]) -> list[float]:
        """Of each text alone, tokenization included."""
        return self._executor.submit(_milliseconds, texts).result()


class _Row(Protocol):
    @property
    def token_count(self) -> int:
        """Tokens of the row."""


@dataclass(frozen=True, slots=True)
class _Model:
    tokenize: Callable[[Any], list[Any]]
    """A text, or a question, to its rows."""
    compute: Callable[[Sequence[Any]], NDArray[np.float32]]
    passes: int
    """Passes that the stage computes at once."""


_model: _Model


def _load(kind: str, environment: Mapping[str, str]) -> None:
    """Load the stage's backend as its composition root does."""
    os.environ.update({"LOG_LEVEL": "WARNING", **environment})
    global _model  # noqa: PLW0603  one model a process is what this process is for
    _model = {"embedder": _embedder, "reranker": _reranker}[kind]()
    for _ in range(3):
        sample = ["warm up " * words for words in (1, 10, 60, 120)]
        inputs: list[Any] = sample if kind == "embedder" else [Question("warm up", tuple(sample))]
        _rate(inputs, Cut(rows=2))


def _ready() -> None:
    """Done when the model is loaded."""


def _embedder() -> _Model:
    from services.chassis import logs  # noqa: PLC0415  only what is measured is imported
    from services.embedder.backends import TextKind, load_embedding_backend  # noqa: PLC0415  as above
    from services.embedder.settings import EmbedderSettings  # noqa: PLC0415  as above

    settings = EmbedderSettings()
    logs.configure("raw", settings)
    backend = load_embedding_backend(
        settings.embedding_model, settings.options, pseudo_dimension=settings.pseudo_dimension
    )
    passes = settings.scheduler_limits(backend.model).workers
    return _Model(lambda texts: backend.tokenize(texts, TextKind.DOCUMENT), backend.embed, passes)


def _reranker() -> _Model:
    from services.chassis import logs  # noqa: PLC0415  only what is measured is imported
    from services.reranker.backends import load_cross_encoder_backend  # noqa: PLC0415  as above
    from services.reranker.settings import RerankerSettings  # noqa: PLC0415  as above

    settings = RerankerSettings()
    logs.configure("raw", settings)
    backend = load_cross_encoder_backend(settings.rerank_model, settings.options, settings.rerank_passage_tokens)

    def tokenize(questions: Sequence[Question]) -> list[Any]:
        return [row for asked in questions for row in backend.tokenize(asked.query, asked.passages)]

    return _Model(tokenize, backend.score, settings.scheduler_limits(backend.model).workers)


def _rate(inputs: Sequence[Any], cut: Cut) -> float:
    started = time.perf_counter()
    rows = sorted(_model.tokenize(inputs), key=lambda row: row.token_count)
    with ThreadPoolExecutor(_model.passes) as passes:
        list(passes.map(_model.compute, [rows[batch] for batch in cut.batches([row.token_count for row in rows])]))
    return len(rows) / (time.perf_counter() - started)


def _vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    rows = _model.tokenize(texts)
    order = sorted(range(len(rows)), key=lambda position: rows[position].token_count)
    vectors: dict[int, NDArray[np.float32]] = {}
    for batch in _CUT_FOR_VECTORS.batches([rows[position].token_count for position in order]):
        vectors.update(zip(order[batch], _model.compute([rows[position] for position in order[batch]]), strict=True))
    return np.stack([vectors[position] for position in range(len(rows))])


def _best_cut(inputs: Sequence[Any]) -> tuple[Cut, dict[str, float]]:
    rates = {cut: _rate(inputs, cut) for cut in CUTS}
    for _ in range(_RETRIALS):
        # The machine may have been busy just then: the best ones are tried again.
        for cut in sorted(CUTS, key=rates.__getitem__)[-_FINALISTS:]:
            rates[cut] = max(rates[cut], _rate(inputs, cut))
    best = max(rates, key=rates.__getitem__)
    return best, {str(cut): round(rate, 1) for cut, rate in rates.items()}


def _milliseconds(texts: Sequence[str]) -> list[float]:
    taken = []
    for text in texts:
        started = time.perf_counter()
        _model.compute(_model.tokenize([text]))
        taken.append((time.perf_counter() - started) * 1000)
    return taken
