"""Shadow searches: some control requests are answered a second time as treatment would have been, off the
reply's path, and the reranker says which answer is better.

Both answers are to the same question of the same user, so a few hundred pairs tell what thousands of separate requests
would not. The price is work that nobody waits for, so it has its own budget: little at once, its own deadline, the bulk
lane of the reranker, stages' failures that count for nobody else's breaker. It is left out whenever the gateway is
half full, and for a while after a stage has shed, failed or been skipped for want of time.

The judge is the cross-encoder, which reads the first ten of both answers in one call; the expected reciprocal rank of
each answer decides. It is a judge with a bias: an answer that was ordered by the same cross-encoder pleases it. A win
is no proof of quality; a loss in its own measure is the alarm that it is there for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis import logs
from services.chassis.errors import SluiceError
from services.chassis.timing import deadline_in
from services.experiment.bucketing import BUCKETS, Arm
from services.gateway.metrics import GatewayMetrics
from services.gateway.rollout.evidence import Evidence, Judgement, Pair
from services.gateway.rollout.table import Decision, FeatureArm
from services.gateway.search.flags import Features
from services.gateway.search.question import Question
from services.gateway.search.satisfaction import expected_reciprocal_rank, satisfaction
from services.gateway.search.stages import Answer, Outcome, Reranker, Result, reading
from sluice_statistics.rankings import overlap

_log = logs.get_logger("shadow")

DEPTH = 10
"""Results of each answer that are compared."""
BUDGET_SECONDS = 5.0
AT_ONCE = 2
REST_SECONDS = 10.0
BUSY_SHARE = 0.5
"""Share of the gateway's limit above which no shadow runs."""
# Smaller differences are noise of the judge, not of the answers.
TIE = 0.01
# Reasons of stages that are short of time or of health.
_STRAINED = {"NO_TIME", "FEWER_CANDIDATES"}


class Searching(Protocol):
    """A search pipeline."""

    async def search(self, question: Question, *, deadline: float) -> Answer: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Answered:
    """A request whose answer is on its way."""

    decision: Decision
    question: Question
    answer: Answer
    seconds: float


class Shadow:
    """Run treatments next to control requests. For one event loop; close it with the gateway."""

    def __init__(
        self,
        pipeline: Searching,
        judge: Reranker,
        evidence: Evidence,
        metrics: GatewayMetrics,
        occupied: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Take the used part of the gateway's limit as `occupied`, and random numbers from 0 to 1 as `draw`."""
        self._pipeline = pipeline
        self._judge = judge
        self._evidence = evidence
        self._metrics = metrics
        self._occupied = occupied
        self._draw = draw
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting_until = 0.0

    def offer(self, answered: Answered, treated: Callable[[FeatureArm], Features | None]) -> None:
        """Start the treatment of one feature of a control request, by chance; return at once.

        `treated` tells what would have been on.
        """
        drawn = [arm for arm in answered.decision.arms if self._is_drawn(arm)]
        strained = any(
            report.outcome is Outcome.FAILED or report.reason in _STRAINED for report in answered.answer.reports
        )
        if strained:
            self._rest()
        if not drawn:
            return
        busy = self._occupied() > BUSY_SHARE or len(self._tasks) >= AT_ONCE
        if busy or time.monotonic() < self._resting_until:
            self._metrics.shadow_searches.labels("skipped").inc()
            return
        arm = drawn[int(self._draw() * len(drawn)) % len(drawn)]
        features = treated(arm)
        if features is None:
            return
        # In a context of its own: trace and caller belong to a request that is over by then.
        task = asyncio.create_task(self._run(arm, answered, features), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def running(self) -> int:
        """Number of shadows under way."""
        return len(self._tasks)

    async def drain(self) -> None:
        """Wait for the shadows under way."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Cancel all shadow searches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_drawn(self, arm: FeatureArm) -> bool:
        ramp = arm.ramp
        return (
            ramp is not None
            and arm.arm is Arm.CONTROL
            and ramp.measured
            and ramp.shadow_ppm > 0
            and self._draw() * BUCKETS < ramp.shadow_ppm
        )

    async def _run(self, arm: FeatureArm, answered: Answered, features: Features) -> None:
        deadline = deadline_in(BUDGET_SECONDS)
        started = time.perf_counter()
        try:
            question = replace(answered.question, features=features, course=None, highlights=False)
            treatment = await self._pipeline.search(question, deadline=deadline)
            self._metrics.shadow_seconds.labels("treatment").observe(time.perf_counter() - started)
            self._metrics.shadow_seconds.labels("control").observe(answered.seconds)
            if treatment.idle_stages & (arm.ramp.stages if arm.ramp else set()):
                self._metrics.shadow_searches.labels("not_exposed").inc()
                return
            pair = await self._compare(answered, treatment, deadline)
        except SluiceError as error:
            self._rest()
            self._metrics.shadow_searches.labels("failed").inc()
            _log.debug("shadow failed", feature=arm.feature, problem=error.message)
        except Exception as fault:  # nobody waits for it, so nobody else would say so
            self._metrics.shadow_searches.labels("failed").inc()
            _log.error("unexpected error", feature=arm.feature, exc_info=fault)
        else:
            self._metrics.shadow_searches.labels("run").inc()
            self._metrics.shadow_judgements.labels(pair.judgement.value).inc()
            self._evidence.pair(arm, pair)

    async def _compare(self, answered: Answered, treatment: Answer, deadline: float) -> Pair:
        ours, theirs = answered.answer.results[:DEPTH], treatment.results[:DEPTH]
        own_ids, other_ids = [result.passage.id for result in ours], [result.passage.id for result in theirs]
        shared = overlap(own_ids, other_ids, DEPTH)
        readings = {result.passage.id: reading(result.passage) for result in (*ours, *theirs)}
        if not readings:
            return Pair(shared, Judgement.TIE)
        judged = await self._judge.rerank(answered.question.query, list(readings.values()), deadline=deadline)
        chances = dict(zip(readings, map(satisfaction, judged.scores), strict=True))
        control = expected_reciprocal_rank([chances[identity] for identity in own_ids])
        treated = expected_reciprocal_rank([chances[identity] for identity in other_ids])
        judgement = Judgement.TIE
        if abs(treated - control) > TIE:
            judgement = Judgement.WIN if treated > control else Judgement.LOSS
        return Pair(shared, judgement, control, treated)

    def _rest(self) -> None:
        self._resting_until = time.monotonic() + REST_SECONDS


def quality_of(results: Sequence[Result]) -> float | None:
    """Expected reciprocal rank of an answer whose first results the cross-encoder has all read; else None."""
    logits = [result.rerank_score for result in results[:DEPTH] if result.rerank_score is not None]
    if not logits or len(logits) < len(results[:DEPTH]):
        return None
    return expected_reciprocal_rank([satisfaction(logit) for logit in logits])
