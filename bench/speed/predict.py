"""sentence-transformers' own `CrossEncoder.predict` and `SentenceTransformer.encode`, in a process of their own.

On torch, fp32, with as many threads as the stage gets, over the same model folders as the stage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from bench.speed.workload import Question
from services.inference.cpu import available_cpus
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

DEFAULT_BATCH = 32
BATCHES = (4, 8, 16, DEFAULT_BATCH, 64)


class PredictProcess:
    """A process that holds the stage's cross-encoder in sentence-transformers. A context manager."""

    def __init__(self) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_load)

    def __enter__(self) -> Self:
        self._executor.submit(_ready).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def rate(self, questions: Sequence[Question], batch: int = DEFAULT_BATCH) -> float:
        """Passages a second, one call of `predict` a question."""
        return self._executor.submit(_rate, questions, batch).result()


_model: CrossEncoder


def _load() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch  # noqa: PLC0415  in this process alone
    from sentence_transformers import CrossEncoder  # noqa: PLC0415  as above
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415  as above

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("WARNING"))
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers has no types here

    global _model  # noqa: PLW0603  one model a process is what this process is for
    torch.set_num_threads(available_cpus())
    found = resolve_model(
        "ms-marco-MiniLM-L-12-v2", ModelKind.CROSS_ENCODER, model_dir=None, cache_dir=default_cache_dir()
    )
    _model = CrossEncoder(str(found.folder), device="cpu", local_files_only=True)
    _rate([Question("warm up", tuple("word " * words for words in (1, 20, 60)))], DEFAULT_BATCH)


def _ready() -> None:
    """Done when the model is loaded."""


def _rate(questions: Sequence[Question], batch: int) -> float:
    started = time.perf_counter()
    for asked in questions:
        _model.predict(
            [(asked.query, passage) for passage in asked.passages], batch_size=batch, show_progress_bar=False
        )
    return sum(len(asked.passages) for asked in questions) / (time.perf_counter() - started)
