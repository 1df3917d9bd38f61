"""One answer by two arms of an experiment.

    question ─┬─▶ first arm ───┬─▶ draft ─▶ page
              └─▶ second arm ──┘

Both arms run side by side, by stages that run equal calls once, and with equal deadlines: neither has an advantage. If
one fails, or is not done when there is just time for the page, the answer is that of the other, as if there were no
experiment, and is not counted. A later page goes on with the draft of the first, which needs both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from services.chassis import logs
from services.chassis.errors import DeadlineExceeded, SluiceError, kind_of
from services.gateway.search.arms.shared_stages import shared
from services.gateway.search.budgets import last_moment
from services.gateway.search.order.duplicates import Kinds, Signature
from services.gateway.search.order.enrichment import FIRST
from services.gateway.search.order.interleaving import Coin, draft
from services.gateway.search.pipeline import Pipeline, Ranking, Stages
from services.gateway.search.question import Question
from services.gateway.search.reports import changed
from services.gateway.search.stages import Answer, Drafted

_log = logs.get_logger("search")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, as each of two arms asks it."""

    questions: tuple[Question, Question]
    """Alike but for flags and courses."""
    names: tuple[str, str]
    salt: str
    """Part of the coin's hash."""
    user: str

    @property
    def coin(self) -> Coin:
        """The coin of the answer."""
        question = self.questions[0]
        vector = question.vector.values if question.vector is not None else b""
        asked = f"{question.query}{question.like_document_id}".encode("utf-8", "surrogatepass")
        return Coin(self.salt, self.user, asked + vector)


class _Ended(NamedTuple):
    """The end of an arm."""

    seconds: float
    ranking: Ranking | None = None
    error: Exception | None = None


class TwoArms:
    """Answers questions by two arms."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def search(self, asked: Asked, *, deadline: float) -> Answer:
        """Answer one question by a deadline on the monotonic clock. Raises the first arm's error if both fail."""
        page_by = last_moment(time.monotonic(), deadline)
        arms = await self._ended(asked, page_by)
        rankings = [arm.ranking for arm in arms]
        seconds = (arms[0].seconds, arms[1].seconds)
        first, second = rankings
        switched = bool(first and second and first.course.index_version != second.course.index_version)
        if first and second and not switched:
            return await _drafted(asked, (first, second), seconds, page_by)
        continued = asked.questions[0].course is not None
        served = next((place for place, ranking in enumerate(rankings) if ranking), 0)
        ranking, missing = rankings[served], arms[1 - served].error
        if ranking is None or continued:
            raise next((arm.error for arm in arms if arm.error), changed("the collection is being switched"))
        answer = await ranking.answer(page_by)
        blamed = missing is not None and kind_of(missing).evidence
        drafted = Drafted(
            seconds,
            one_arm=True,
            served=served,
            failed_arm=asked.names[1 - served] if blamed else "",
            failure_reason=_reason(missing),
        )
        return replace(answer, drafted=drafted)

    async def _ended(self, asked: Asked, page_by: float) -> list[_Ended]:
        """Run both arms until they end, or until there is just time for the page."""
        started = time.perf_counter()
        stages = shared(self._pipeline.stages)
        tasks = [asyncio.create_task(self._arm(question, stages, page_by)) for question in asked.questions]
        try:
            await asyncio.wait(tasks, timeout=last_moment(time.monotonic(), page_by) - time.monotonic())
            pending = [task for task in tasks if not task.done()]
            if pending and not any(task.done() and task.result().ranking for task in tasks):
                await asyncio.wait(pending, timeout=page_by - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
            late = DeadlineExceeded("the deadline passed before the arm was done")
            return [
                task.result() if task.done() else _Ended(time.perf_counter() - started, error=late) for task in tasks
            ]
        finally:
            for task in tasks:
                task.cancel()

    async def _arm(self, question: Question, stages: Stages, deadline: float) -> _Ended:
        started = time.perf_counter()
        try:
            ranking = await self._pipeline.rank(question, stages, deadline=deadline)
        except Exception as error:
            if not isinstance(error, SluiceError):
                _log.error("unexpected error", exc_info=error)
            return _Ended(time.perf_counter() - started, error=error)
        return _Ended(time.perf_counter() - started, ranking)


async def _drafted(
    asked: Asked, rankings: tuple[Ranking, Ranking], seconds: tuple[float, float], page_by: float
) -> Answer:
    """Make the page of both arms' results."""
    question = asked.questions[0]
    last = question.offset + question.limit
    ids = [_ids(ranking, last + 1) for ranking in rankings]
    if question.collapse_duplicates:
        kinds = [_kinds(ranking, of_ranking) for ranking, of_ranking in zip(rankings, ids, strict=True)]
        placing = islice(draft((kinds[0], kinds[1]), asked.coin, _Taken()), last + 1)
        # Hundreds of long passages would block the event loop.
        placed = await asyncio.to_thread(list, placing)
    else:
        placed = list(islice(draft((ids[0], ids[1]), asked.coin, set()), last + 1))
    first = [rankings[one.arm].entry(one.place).found for one in placed[:FIRST]]
    entries = [rankings[one.arm].entry(one.place, one.team) for one in placed[question.offset : last]]
    scores = (ranking.score(first) for ranking in rankings)
    score = next((score for score in scores if score is not None), None)
    answer = await rankings[0].page(entries, page_by, more=len(placed) > last, score=score)
    reports = list(rankings[1].attempts.reports.values())
    return replace(answer, drafted=Drafted(seconds, course=rankings[1].course, reports=reports))


def _reason(missing: Exception | None) -> str:
    """Reason for the lack of an arm; without an error the arms have met two versions of the collection."""
    if missing is None:
        return "INDEX_SWITCHED"
    return missing.reason if isinstance(missing, SluiceError) else kind_of(missing).reason


def _ids(ranking: Ranking, count: int) -> list[str]:
    """Ids of the first results, or of their documents where each document has one result."""
    items = ranking.candidates.items
    passages = [items[one.position].passage for one in ranking.kept[:count]]
    by_document = ranking.question.group_by_document
    return [passage.document_id if by_document else passage.id for passage in passages]


class _Kind(NamedTuple):
    """A result whose near-duplicates are the same."""

    id: str
    signature: Signature | None


def _kinds(ranking: Ranking, ids: Sequence[str]) -> list[_Kind]:
    signature = ranking.candidates.signature
    return [_Kind(name, signature(one.position)) for name, one in zip(ids, ranking.kept, strict=False)]


class _Taken:
    """The results that are placed."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._kinds = Kinds()

    def __contains__(self, kind: _Kind, /) -> bool:
        """True if it is placed, or another that stands for it."""
        return kind.id in self._ids or (kind.signature is not None and self._kinds.like(kind.signature) is not None)

    def add(self, kind: _Kind, /) -> None:
        """Place it."""
        self._ids.add(kind.id)
        if kind.signature is not None:
            self._kinds.add(kind.signature)
