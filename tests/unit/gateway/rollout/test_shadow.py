from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.errors import SluiceError, Unavailable
from services.experiment.bucketing import Arm
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.gateway.metrics import GatewayMetrics
from services.gateway.rollout.evidence import Evidence, Judgement
from services.gateway.rollout.shadow import AT_ONCE, Answered, Shadow, quality_of
from services.gateway.rollout.table import Decision, FeatureArm, Ramp, Reason
from services.gateway.search.flags import Features
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer, Outcome, Reranked, Result, Stage, StageReport
from tests.unit.gateway.samples import COURSE, passage

RAMP = Ramp(
    "rerank-v1",
    salt="rerank-v1",
    overrides=Overrides(rerank=True),
    treatment_ppm=100_000,
    control_ppm=100_000,
    ramp_id="rerank-v1.1",
    lease_seconds=10,
    shadow_ppm=500_000,
)
QUESTION = Question("how do pools work", "docs", Features())
TREATED = Features(rerank=True)


def result(identity: str, rank: int = 1, rerank_score: float | None = None) -> Result:
    return Result(passage(identity, "", identity), 1 / rank, rank, 1 / rank, rank, rerank_score)


def answer(*identities: str, reason: str = "", outcome: Outcome = Outcome.RAN) -> Answer:
    results = [result(identity, rank) for rank, identity in enumerate(identities, start=1)]
    return Answer(results, [StageReport(Stage.RETRIEVE, outcome, reason)], COURSE, None)


@dataclass
class World:
    """A pipeline and a judge in memory, and what they were asked."""

    treatment: Answer = field(default_factory=lambda: answer("b", "a"))
    good: set[str] = field(default_factory=lambda: {"b"})
    error: SluiceError | None = None
    judge_error: SluiceError | None = None
    occupied: float = 0.0
    drawn: float = 0.1
    asked: list[Question] = field(default_factory=list)
    judged: list[list[str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        self.gate.set()
        self.shadow = Shadow(
            self, self, self.evidence, GatewayMetrics(CollectorRegistry()), lambda: self.occupied, lambda: self.drawn
        )

    async def search(self, question: Question, *, deadline: float) -> Answer:
        self.asked.append(question)
        await self.gate.wait()
        if self.error:
            raise self.error
        return self.treatment

    async def rerank(self, query: str, passages: Sequence[str], *, partial: bool = False, deadline: float) -> Reranked:
        if self.judge_error:
            raise self.judge_error
        self.judged.append(list(passages))
        return Reranked([5.0 if passage in self.good else -5.0 for passage in passages], "cross")

    def offer(self, control: Answer | None = None, arm: Arm = Arm.CONTROL, ramp: Ramp = RAMP) -> None:
        arms = [FeatureArm(ramp.name, ramp.ramp_id, arm, Reason.NONE, ramp, 42)]
        answered = Answered(Decision(Features(), arms), QUESTION, control or answer("a", "b"), 0.1)
        self.shadow.offer(answered, lambda _: TREATED)

    async def done(self) -> None:
        await self.shadow.drain()

    def judgements(self) -> dict[Judgement, int]:
        counts = dict.fromkeys(Judgement, 0)
        for totals in self.evidence.take():
            for judgement, count in totals.judgements.items():
                counts[judgement] += count
        return {judgement: count for judgement, count in counts.items() if count}


async def test_the_treatment_of_a_control_request_is_the_same_question_with_its_features() -> None:
    world = World()
    world.offer()
    await world.done()
    assert world.asked == [replace(QUESTION, features=TREATED)]
    assert world.judged == [["a", "b"]]  # the passages of both answers, each once


@pytest.mark.parametrize(
    ("good", "judgement", "loser"),
    [("b", Judgement.WIN, Arm.CONTROL), ("a", Judgement.LOSS, Arm.TREATMENT), ("", Judgement.TIE, None)],
)
async def test_the_better_answer_is_the_one_whose_reader_is_satisfied_sooner(
    good: str, judgement: Judgement, loser: Arm | None
) -> None:
    world = World(good={good})
    world.offer()
    await world.done()
    totals = {arm.arm: arm for arm in world.evidence.take()}
    assert totals[Arm.CONTROL].judgements[judgement] == 1
    assert totals[Arm.CONTROL].overlap_sum == 1.0
    losers = [side for side, arm in totals.items() if Guardrail.QUALITY in arm.bad]
    assert losers == ([loser] if loser else [])


async def test_two_empty_answers_are_a_tie_and_need_no_judge() -> None:
    world = World(treatment=answer())
    world.offer(answer())
    await world.done()
    assert world.judged == []
    assert world.judgements() == {Judgement.TIE: 1}


@pytest.mark.parametrize(
    ("arm", "ramp", "drawn"),
    [
        (Arm.TREATMENT, RAMP, 0.1),
        (Arm.CONTROL, replace(RAMP, shadow_ppm=0), 0.0),
        (Arm.CONTROL, RAMP, 0.5),
    ],
)
async def test_only_the_drawn_share_of_control_has_a_shadow(arm: Arm, ramp: Ramp, drawn: float) -> None:
    world = World(drawn=drawn)
    world.offer(arm=arm, ramp=ramp)
    await world.done()
    assert world.asked == []


async def test_a_gateway_that_is_half_full_runs_no_shadows() -> None:
    world = World(occupied=0.6)
    world.offer()
    assert world.shadow.running == 0


async def test_only_a_few_shadows_run_at_once() -> None:
    world = World()
    world.gate.clear()
    for _ in range(10):
        world.offer()
    assert world.shadow.running == AT_ONCE
    world.gate.set()
    await world.done()
    assert len(world.asked) == AT_ONCE


@pytest.mark.parametrize(
    "strained", [answer("a", reason="NO_TIME"), answer("a", reason="OVERLOADED", outcome=Outcome.FAILED)]
)
async def test_stages_that_are_short_of_something_are_left_alone_for_a_while(strained: Answer) -> None:
    world = World()
    world.offer(strained)
    world.offer()
    await world.done()
    assert world.asked == []


@pytest.mark.parametrize("fails", ["error", "judge_error"])
async def test_a_shadow_that_fails_is_no_evidence_and_gives_the_stages_a_rest(fails: str) -> None:
    world = World(**{fails: Unavailable("away")})  # type: ignore[arg-type]
    world.offer()
    await world.done()
    assert world.judgements() == {}
    world.offer()
    await world.done()
    assert len(world.asked) == 1


async def test_closing_gives_up_what_is_under_way() -> None:
    world = World()
    world.gate.clear()
    world.offer()
    await asyncio.sleep(0)
    await world.shadow.close()
    assert world.shadow.running == 0


def test_the_quality_of_an_answer_is_known_where_the_cross_encoder_read_its_first_results() -> None:
    assert quality_of([result("a", 1, 20.0), result("b", 2, -20.0)]) == pytest.approx(1.0)
    assert quality_of([result("a", 1, -20.0), result("b", 2, 20.0)]) == pytest.approx(0.5)
    assert quality_of([result("a", 1, 20.0), result("b", 2)]) is None
    assert quality_of([]) is None
