"""Enrichment of the last few minutes, for those who read a gateway without Prometheus."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 300.0
_STEP_SECONDS = 10.0


@dataclass(slots=True)
class _Step:
    """Answered searches of ten seconds."""

    began: float
    searches: int = 0
    enriched: int = 0
    scores: float = 0.0
    relations: int = 0


class RecentEnrichment:
    """Counts of the searches that were answered in the last five minutes; gauges read it in another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[_Step] = deque()
        self._lock = threading.Lock()

    def add(self, score: float | None, relations: int) -> None:
        """Count a search, with its enrichment score; None where no relations were followed."""
        now = self._clock()
        with self._lock:
            if not self._steps or now - self._steps[-1].began >= _STEP_SECONDS:
                self._steps.append(_Step(now))
            step = self._steps[-1]
            step.searches += 1
            if score is not None:
                step.enriched += 1
                step.scores += score
                step.relations += relations
        self._forget(now)

    def usage_rate(self) -> float:
        """Share of the searches that followed relations; 0 where there was none."""
        searches, enriched, *_ = self._totals()
        return enriched / searches if searches else 0.0

    def mean_score(self) -> float:
        """Mean enrichment score of these; not a number where there was none."""
        _, enriched, scores, _ = self._totals()
        return scores / enriched if enriched else math.nan

    def mean_relations(self) -> float:
        """Mean number of relations in their results; not a number where there was none."""
        _, enriched, _, relations = self._totals()
        return relations / enriched if enriched else math.nan

    def _totals(self) -> tuple[int, int, float, int]:
        self._forget(self._clock())
        with self._lock:
            steps = list(self._steps)
        return (
            sum(step.searches for step in steps),
            sum(step.enriched for step in steps),
            sum(step.scores for step in steps),
            sum(step.relations for step in steps),
        )

    def _forget(self, now: float) -> None:
        with self._lock:
            while self._steps and now - self._steps[0].began >= WINDOW_SECONDS:
                self._steps.popleft()
