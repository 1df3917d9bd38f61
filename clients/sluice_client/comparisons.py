"""What the same question gets as things are, and with more switched on."""

from __future__ import annotations

from dataclasses import dataclass

from sluice_client.answers import Answer


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one question, and how they differ."""

    standard: Answer
    enhanced: Answer
    standard_seconds: float
    enhanced_seconds: float
    """Made after the other; vectors that both need may come from a cache."""
    depth: int
    overlap: float
    """Share of results among the first `depth` that both have, 0 to 1."""
    rank_biased_overlap: float
    """Agreement that counts more at the top (Webber et al. 2010, extrapolated), 0 to 1."""
    persistence: float
    """How far down that looks: the chance that who saw one rank looks at the next."""
