"""The guardrails of a rollout."""

from __future__ import annotations

import enum
from typing import Self

from services.experiment.enums import from_number
from sluice.rollout.v1 import rollout_pb2


class Guardrail(enum.Enum):
    """Something that must not become worse."""

    ERRORS = "errors"
    LATENCY = "latency"
    EMPTY_RESULTS = "empty_results"
    QUALITY = "quality"
    EXPOSURE = "exposure"
    """A stage of the feature was asked and did not do its work; judged by a hard limit of its own."""

    @classmethod
    def from_proto(cls, number: int, field: str) -> Self:
        """Read a guardrail. Raises InvalidArgument, naming the field, where there is none."""
        return from_number(cls, rollout_pb2.Guardrail, number, field)

    def to_proto(self) -> rollout_pb2.Guardrail.ValueType:
        """Write the guardrail."""
        return rollout_pb2.Guardrail.Value(f"GUARDRAIL_{self.name}")
