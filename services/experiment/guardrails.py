"""What a rollout watches."""

from __future__ import annotations

import enum


class Guardrail(enum.Enum):
    """Something that must not become worse."""

    ERRORS = "errors"
    LATENCY = "latency"
    EMPTY_RESULTS = "empty_results"
    QUALITY = "quality"
