"""The port of language models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and the schema of the reply."""

    system: str
    user: str
    schema: Mapping[str, Any]
    """JSON schema of what it is to write."""
    most_tokens: int
    """Most tokens to write."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation."""

    whole: bool
    """False if it was cut off at the most tokens."""
    prompt_tokens: int | None = None
    """Tokens that were read, and written, if the server counts them."""
    completion_tokens: int | None = None


class LanguageModel(Protocol):
    """A model behind a server."""

    @property
    def name(self) -> str:
        """Its name at the server."""

    def generate(self, prompt: Prompt, *, deadline: float) -> AsyncGenerator[str | Finished, None]:
        """Yield text as it is written, and its end. Closing the generator ends the generation.

        Raises Unavailable, ResourceExhausted for a server that is busy, and DeadlineExceeded. A request that was sent
        is never sent again.
        """
