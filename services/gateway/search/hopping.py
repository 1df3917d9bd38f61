"""Hops of one question: from its candidates along relations to further passages.

What was found stays: a hop moves candidates up or brings others, and where it fails, or has no time, the answer is the
one without it.
"""

from __future__ import annotations

import time

from services.gateway.search.budgets import Budgets
from services.gateway.search.candidates import FOLLOWED, REACHED, Candidates
from services.gateway.search.question import Policy, Question
from services.gateway.search.reports import AS_BEFORE, NO_CANDIDATES, NO_QUERY, Attempts, changed, ran
from services.gateway.search.stages import Outcome, QueryTokens, Retriever, Stage, StageReport


class Hopping:
    """Follows relations from the candidates of one question."""

    def __init__(self, question: Question, retriever: Retriever, budgets: Budgets, attempts: Attempts) -> None:
        self.hops = 0
        """Most relations in a row that were followed; 0 where none were."""
        self._question = question
        self._retriever = retriever
        self._budgets = budgets
        self._attempts = attempts

    @property
    def follows(self) -> bool:
        """True if relations are to be followed."""
        features, course = self._question.features, self._question.course
        wanted = features.multi_hop and features.max_hops > 0 and bool(self._question.query)
        if course is not None and course.hops and course.hops != (features.max_hops if wanted else 0):
            raise changed("relations are followed otherwise now")
        return wanted and (course is None or course.hops > 0)

    async def follow(self, candidates: Candidates, tokens: QueryTokens | None) -> None:
        """Follow relations, and put what they lead to in its place; with the query's tokens, compare it by them."""
        if not self.follows:
            self._attempts.skip(Stage.HOP, *self._left_out())
            return
        if not candidates.items:
            self._attempts.skip(Stage.HOP, *NO_CANDIDATES)
            return
        question, hops = self._question, self._question.features.max_hops
        attempt = await self._attempts.call(
            Stage.HOP,
            lambda until: self._retriever.expand_relations(
                candidates.index_version,
                question.query,
                candidates.items[:FOLLOWED],
                filter=question.filter,
                hops=hops,
                limit=REACHED,
                tokens=tokens,
                deadline=until,
            ),
            self._attempts.policy(question.policies.hop, Policy.BEST_EFFORT),
            self._budgets.hop,
            self._budgets.hop_until(time.monotonic(), self._attempts.last_moment),
        )
        if isinstance(attempt, StageReport):
            if attempt.reason == "NOT_ENRICHED":
                attempt = attempt._replace(outcome=Outcome.SKIPPED)
            self._attempts.report(attempt)
            return
        self.hops = hops
        reached = attempt.result
        candidates.reach(reached)
        detail = f"{reached.followed_count} keys led somewhere"
        if reached.frequent_count:
            detail += f", {reached.frequent_count} were too frequent"
        if reached.left_out_count:
            detail += f", {reached.left_out_count} were too many for their passages"
        self._attempts.report(ran(Stage.HOP, attempt.seconds, len(reached.candidates), detail=detail))

    def _left_out(self) -> tuple[str, str]:
        if not self._question.query:
            return NO_QUERY
        if self._question.features.multi_hop and self._question.features.max_hops:
            return AS_BEFORE
        return "FEATURE_OFF", "hops are off for this request"
