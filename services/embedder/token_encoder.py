"""Token vectors of texts, by one late interaction model that all callers share."""

from __future__ import annotations

from collections.abc import Sequence

from services.embedder.encoder import TextEncoder
from services.embedder.token_backends import TokenBackend
from services.inference.models.tokenization import LateText
from services.inference.scheduling import SchedulerLimits, SchedulerObserver


class TokenEncoder(TextEncoder[LateText]):
    """Makes the rows of bytes of each text, one after the other. An async context manager."""

    def __init__(self, backend: TokenBackend, limits: SchedulerLimits, observer: SchedulerObserver) -> None:
        def compute(texts: Sequence[LateText]) -> list[bytes]:
            return [codes.tobytes() for codes in backend.embed(texts)]

        super().__init__(backend, compute, limits, observer)
