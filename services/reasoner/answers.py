"""Questions with passages, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

from sluice.type.v1 import answer_pb2


class Method(Enum):
    """Origin of an answer."""

    LLM = answer_pb2.ANSWER_METHOD_LLM
    EXTRACTIVE = answer_pb2.ANSWER_METHOD_EXTRACTIVE


class Fallback(StrEnum):
    """Reason for an extractive answer that was not asked for."""

    NOT_CONFIGURED = "LLM_NOT_CONFIGURED"
    UNAVAILABLE = "LLM_UNAVAILABLE"
    BUSY = "LLM_BUSY"
    TOO_SLOW = "LLM_TOO_SLOW"
    INVALID = "LLM_INVALID"
    BUDGET = "BUDGET_TOO_SMALL"


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage to answer from."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most that an answer may take; None is bounded by the settings alone."""

    seconds: float | None = None
    """Time of the model."""
    tokens: int | None = None
    """Tokens that the model reads and writes."""
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and all that is needed to answer it."""

    question: str
    passages: Sequence[Passage]
    """The most relevant first."""
    bounds: Bounds = Bounds()
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; None asks for words."""
    extractive: bool = False
    """True if no model is to be asked."""
    sub_questions: int = 0
    """Most questions that the model may ask to have searched."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote, and the place in the passage's text where it stands, in characters."""

    passage_id: str
    quote: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a model took, and their price."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it stands on; the fields are those of `sluice.type.v1.WrittenAnswer`."""

    text: str
    citations: Sequence[Citation]
    confidence: float
    in_sources: bool
    method: Method
    dropped_citations: int = 0
    fallback: Fallback | None = None
    fallback_detail: str = ""
    model: str = ""
    usage: Usage = Usage()
    sub_questions: Sequence[str] = ()
    truncated_passages: int = 0

    @property
    def supported(self) -> bool:
        """True if at least one citation is left."""
        return bool(self.citations)

    def to_proto(self) -> answer_pb2.WrittenAnswer:
        """Write the answer."""
        return answer_pb2.WrittenAnswer(
            text=self.text,
            citations=[
                answer_pb2.Citation(passage_id=one.passage_id, quote=one.quote, start=one.start, end=one.end)
                for one in self.citations
            ],
            confidence=self.confidence,
            in_sources=self.in_sources,
            supported=self.supported,
            dropped_citation_count=self.dropped_citations,
            method=self.method.value,
            fallback_reason=self.fallback or "",
            fallback_detail=self.fallback_detail,
            model=self.model,
            prompt_token_count=self.usage.prompt_tokens,
            completion_token_count=self.usage.completion_tokens,
            cost=self.usage.cost,
            sub_questions=self.sub_questions,
            truncated_passage_count=self.truncated_passages,
        )
