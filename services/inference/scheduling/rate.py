"""The measured speed of a model."""

from __future__ import annotations

import math

MEMORY_SECONDS = 2.0


class Rate:
    """Tokens a second of one worker, over about the last MEMORY_SECONDS of compute."""

    def __init__(self, tokens_per_second: float | None) -> None:
        self._seconds = MEMORY_SECONDS if tokens_per_second else 0.0
        self._tokens = (tokens_per_second or 0.0) * self._seconds

    def add(self, tokens: int, seconds: float) -> None:
        """Add a pass."""
        fading = math.exp(-seconds / MEMORY_SECONDS)
        self._tokens = self._tokens * fading + tokens
        self._seconds = self._seconds * fading + seconds

    @property
    def tokens_per_second(self) -> float | None:
        """The rate, or None before the first pass."""
        return self._tokens / self._seconds if self._seconds > 0 else None
