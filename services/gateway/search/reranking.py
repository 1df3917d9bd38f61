"""The closer look at the best candidates of one question.

By late interaction: vectors of the query's tokens are made while the query is embedded, and the retriever compares them
with those of the passages. By the cross-encoder, which reads query and passage together. By a cascade: the
cross-encoder reads those alone that are best after late interaction. Where token vectors are missing, the
cross-encoder serves.
"""

from __future__ import annotations

import time

from services.gateway.search.budgets import Budgets
from services.gateway.search.candidates import Candidates
from services.gateway.search.order.ranking import Ranked, Weights, best_first, blend
from services.gateway.search.question import Course, Policy, Question
from services.gateway.search.reports import (
    AS_BEFORE,
    NO_CANDIDATES,
    NO_QUERY,
    Attempts,
    changed,
    no_time,
    ran,
)
from services.gateway.search.stages import Embedder, QueryTokens, Reranked, Reranker, Stage, StageReport

# Most candidates that the cross-encoder reads in place of late interaction, for which more of them are asked: it takes
# many times as long for each.
MOST_INSTEAD = 20
_FEWEST_TO_RERANK = 2
_CROSS_ENCODER, _CASCADE = "cross_encoder", "cascade"
# Factor on the share of the closer look after hops: what they lead to answers a part of the question alone.
_SHARE_AFTER_HOPS = 0.5


class Reranking:
    """Reranks the candidates of one question: first `prepare`, then `look`, then `ranked`."""

    def __init__(
        self,
        question: Question,
        embedder: Embedder,
        reranker: Reranker,
        weights: Weights,
        budgets: Budgets,
        attempts: Attempts,
    ) -> None:
        self.tokens: QueryTokens | None = None
        """Vectors of the query's tokens, which the retriever is to compare."""
        self.compared = 0
        """Number of candidates that it was to compare, if it has."""
        self.read = Reranked((), "")
        """The cross-encoder's answer."""
        self.logits: dict[int, float] = {}
        """Its scores, by the places of candidates."""
        self._question = question
        self._features = question.features
        self._course = question.course
        self._embedder = embedder
        self._reranker = reranker
        self._weights = weights
        self._budgets = budgets
        self._attempts = attempts
        self._token_seconds = 0.0
        # Reason and detail of the cross-encoder's reading what token vectors were to rerank.
        self._instead = ("", "")

    @property
    def compares(self) -> bool:
        """True if token vectors are to be compared."""
        by_tokens = self._features.rerank and self._features.rerank_method != _CROSS_ENCODER
        before = self._course is None or self._course.late > 0
        return by_tokens and before and bool(self._question.query)

    @property
    def wanted(self) -> int:
        """Number of candidates to look at."""
        if self._course is not None:
            return self._course.late or self._course.reranked
        return self._features.rerank_candidate_count if self._features.rerank else 0

    async def prepare(self) -> None:
        """Make the vectors of the query's tokens."""
        required = self._question.policies.rerank is Policy.REQUIRED
        last_moment = self._attempts.last_moment
        attempt = await self._attempts.call(
            Stage.RERANK,
            lambda until: self._embedder.embed_query_tokens(
                self._question.query, collection=self._question.collection, deadline=until
            ),
            # The cross-encoder takes over from a failure.
            self._attempts.policy(None, Policy.BEST_EFFORT),
            self._budgets.tokens,
            last_moment if required else self._budgets.tokens_until(time.monotonic(), last_moment),
        )
        if isinstance(attempt, StageReport):
            self._instead = (attempt.reason, f"the cross-encoder serves: {attempt.detail}")
        else:
            self.tokens, self._token_seconds = attempt.result, attempt.seconds

    async def look(self, candidates: Candidates) -> None:
        """Take the retriever's comparison, and let the cross-encoder read what it is to read."""
        left_out = self._left_out(candidates)
        if left_out:
            self._attempts.skip(Stage.RERANK, *left_out)
            return
        if self.tokens is not None and candidates.late_scores:
            self.compared = self.wanted
        elif self.tokens is not None:
            self._instead = ("NOT_COMPARED", "the cross-encoder serves: the retriever has compared no candidate")
        if self._course is not None:
            self._check(self._course)
        reads = self._course.reranked > 0 if self._course else self._features.rerank_method == _CASCADE
        if not self.compared or reads:
            await self._let_read(candidates)
        elif self._features.rerank_method == _CASCADE:
            self._report_late(candidates, *AS_BEFORE)
        else:
            self._report_late(candidates)

    def ranked(self, candidates: Candidates) -> list[Ranked]:
        """Order the candidates by all that is known of them."""
        late = self._late(candidates)
        return best_first(blend(late, self.logits, self._share(candidates, self._weights.rerank)), late)

    def _late(self, candidates: Candidates) -> list[float]:
        """Scores after late interaction."""
        share = self._share(candidates, self._weights.late)
        return blend(candidates.scores, candidates.late_scores, share)

    def _share(self, candidates: Candidates, share: float) -> float:
        return share * _SHARE_AFTER_HOPS if candidates.related else share

    def _left_out(self, candidates: Candidates) -> tuple[str, str] | None:
        before = self._course is None or self._course.late + self._course.reranked > 0
        if not self._features.rerank:
            if self._course is not None and before:
                raise changed("reranking is off now")
            return "FEATURE_OFF", "reranking is off for this request"
        if not self._question.query:
            return NO_QUERY
        if not before:
            return AS_BEFORE
        return None if candidates.items else NO_CANDIDATES

    def _check(self, course: Course) -> None:
        """Raise if the candidates are not compared and read as those of the first page."""
        method = self._features.rerank_method
        if self.compared != course.late or (course.late and course.reranked and method != _CASCADE):
            raise changed("reranking is by another method now")
        if method != _CROSS_ENCODER and not course.late:
            self._instead = AS_BEFORE

    async def _let_read(self, candidates: Candidates) -> None:
        """Let the cross-encoder score the first candidates, or after late interaction the best."""
        texts = await candidates.head(min(self.wanted, MOST_INSTEAD) if self._instead[0] else self.wanted)
        places = list(range(len(texts)))
        if self.compared:
            most = self._course.reranked if self._course else self._features.cascade_count
            places = [item.position for item in best_first(self._late(candidates)) if item.position < len(texts)][:most]
        policy = self._attempts.policy(self._question.policies.rerank, Policy.BEST_EFFORT)
        partial = policy is Policy.BEST_EFFORT
        passages = [texts[place] for place in places]
        lengths = [len(passage) for passage in passages]
        likely = self._budgets.rerank_count(time.monotonic(), self._attempts.last_moment, lengths)
        if partial and likely < min(len(passages), _FEWEST_TO_RERANK):
            self._report_unread(candidates, no_time(Stage.RERANK))
            return
        attempt = await self._attempts.call(
            Stage.RERANK,
            lambda until: self._reranker.rerank(self._question.query, passages, partial=partial, deadline=until),
            policy,
            self._budgets.rerank_token,
            self._attempts.last_moment,
            work=lambda read: self._budgets.rerank_work(lengths, read),
        )
        if isinstance(attempt, StageReport):
            self._report_unread(candidates, attempt)
            return
        read = attempt.result
        if self._course is not None and read.model != self._course.reranker:
            raise changed("another model reranks now")
        self.read = read
        count = len(read.scores)
        self.logits = dict(zip(places[:count], read.scores, strict=True))
        reason, detail = self._instead
        if not reason and count < len(passages):
            reason, detail = "FEWER_CANDIDATES", f"the deadline left time for {count} of {len(passages)} candidates"
        self._attempts.report(
            ran(
                Stage.RERANK,
                self._token_seconds + attempt.seconds,
                count,
                model=read.model,
                reason=reason,
                detail=detail,
                truncated=read.truncated_count,
            )
        )

    def _report_unread(self, candidates: Candidates, report: StageReport) -> None:
        """Report that the cross-encoder has read nothing: the order before it serves."""
        if self.compared:
            self._report_late(candidates, report.reason, f"the cross-encoder read none: {report.detail}")
        else:
            self._attempts.report(report)

    def _report_late(self, candidates: Candidates, reason: str = "", detail: str = "") -> None:
        """Report that late interaction alone reranked."""
        model = self.tokens.model.name if self.tokens else ""
        count = len(candidates.late_scores)
        self._attempts.report(ran(Stage.RERANK, self._token_seconds, count, model=model, reason=reason, detail=detail))
