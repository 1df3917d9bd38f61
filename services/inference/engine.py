"""A loaded model as its scheduling depends on it; each model stage adds what its rows are and what is computed."""

from __future__ import annotations

from typing import Protocol

from services.inference.models.info import ModelInfo
from services.inference.models.runtime import Runtime


class Engine(Protocol):
    """A loaded model. All calls block and are thread safe."""

    @property
    def model(self) -> ModelInfo:
        """Description of the model."""

    def width(self, token_count: int) -> int:
        """Tokens that a row of this length costs, padding included."""

    def warm_up(self, batch_tokens: int) -> None:
        """Prepare for batches of up to this many padded tokens. Takes seconds."""


class RuntimeEngine:
    """A model on one of the runtimes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.model = runtime.info

    def width(self, token_count: int) -> int:
        """See `Engine.width`."""
        return self._runtime.width(token_count)

    def warm_up(self, batch_tokens: int) -> None:
        """See `Engine.warm_up`."""
        self._runtime.warm_up(batch_tokens)
