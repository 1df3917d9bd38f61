"""How much of the caller's time a stage may take. Pure: moments and durations in seconds, no clock."""

from __future__ import annotations

# Left over for the reply itself to be built and sent.
REPLY_MARGIN_SECONDS = 0.01


def stage_deadline(now: float, deadline: float, share: float = 1.0) -> float:
    """The moment by which a stage has to answer: a share of the time that is left, less a margin for the reply."""
    return now + max(0.0, deadline - now - REPLY_MARGIN_SECONDS) * share
