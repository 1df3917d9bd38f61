"""A/A experiments through the product's own code, judged after every event.

The product's code assigns the arms, makes the drafts, says what an answer came to, counts what was bad, computes the
intervals and judges. Only the values of users are computed for all events at once; the tests hold that `UnitValues`
says the same, and that the analysis of the stored answers comes to the same judgment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drills.experiments.aa.streams import (
    NOTHING,
    PLACES,
    Flags,
    Floats,
    Ints,
    Scenario,
    Stream,
    answered,
    interleaved,
    known,
    proneness,
    side_by_side,
)
from services.experiment.bucketing import BUCKETS
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.experiment.layers import Layered
from services.rollout.evidence import log_evidence, log_multinomial
from services.rollout.experiments.analysis import (
    GUARDRAIL_ALPHA,
    MISMATCH_THRESHOLD,
    fault,
    guardrail_count,
    guardrails_of,
    sample_ratio,
)
from services.rollout.experiments.experiments import Experiment, ExperimentState, Judgment, Verdict
from services.rollout.experiments.findings import MetricFinding
from services.rollout.experiments.observations import Observations, SlowAnswers
from services.rollout.experiments.plan import ExperimentArm, ExperimentPlan, Method, MetricGuardrail
from services.rollout.experiments.verdicts import Evidence, judge
from services.rollout.feedback.rows import AnswerRow, Ending
from sluice_statistics.answers import AnswerEvent, Metric
from sluice_statistics.sequences import difference, mean

SHARE = 0.8
"""Of the users, in the experiment."""
CONTROL, TREATMENT = "control", "treatment"
_FAILED, _EMPTY = 0.005, 0.01
_ALLOWED_LATENCY = 0.1


@dataclass(frozen=True)
class Served:
    """The answers of an A/A experiment, and what was done with them."""

    experiment: Experiment
    scenario: Scenario
    stream: Stream
    rows: Sequence[AnswerRow]
    """The answers, as they are stored, without what was done with them later."""
    arms: Ints
    """Of each person; 0 for all where answers are interleaved."""
    history: dict[int, float]
    """Of the primary metric: the value of those who were there before, by the unit of the rows."""

    @property
    def plan(self) -> ExperimentPlan:
        """The plan."""
        return self.experiment.plan

    @property
    def past(self) -> Floats | None:
        """The history of each person, as `UnitValues` has it; None without any."""
        if not self.history:
            return None
        found = np.full(len(self.arms), sum(self.history.values()) / len(self.history))
        found[np.array(list(self.history)) - 1] = list(self.history.values())
        return found

    def stored(self, events: int) -> list[AnswerRow]:
        """The answers as they are stored after so many events."""
        done: dict[int, list[AnswerEvent]] = {}
        for answer, place in zip(
            self.stream.answers[:events].tolist(), self.stream.places[:events].tolist(), strict=True
        ):
            done.setdefault(answer, [])
            if place != NOTHING:
                rated = self.scenario.metric is Metric.SATISFACTION
                action, rating = ("rate", place / (PLACES - 1)) if rated else ("click", None)
                done[answer].append(AnswerEvent(action, f"{place}", place + 1, rating))
        return [self.rows[answer]._replace(events=tuple(events)) for answer, events in done.items()]


def served(scenario: Scenario, place: int, seed: int = 7) -> Served:
    """Make an experiment that changes nothing."""
    chance = np.random.default_rng([seed, place])
    method = Method.INTERLEAVE if scenario.metric is Metric.PREFERENCE else Method.AB
    plan = ExperimentPlan(
        f"aa-{place}",
        "Nothing changes.",
        method,
        (ExperimentArm(CONTROL, Overrides()), ExperimentArm(TREATMENT, Overrides(rerank=True))),
        round(SHARE * BUCKETS),
        minimum_effect=0.02,
        primary_metric=scenario.metric,
        guardrails=() if method is Method.INTERLEAVE else (MetricGuardrail(Metric.LATENCY, _ALLOWED_LATENCY),),
    )
    experiment = Experiment(plan.name, plan, ExperimentState.RUNNING, run=1, start_time=0.0)
    layered = Layered(experiment.layer_salt, experiment.first_bucket, plan.share_ppm, experiment.salt, len(plan.arms))
    drawn = [layered.arm_of(f"user-{person}") for person in range(scenario.people)]
    inside = np.array([arm is not None for arm in drawn])
    arms = np.array([arm or 0 for arm in drawn])
    users = answered(scenario, chance)
    users = users[inside[users]]
    prone = proneness(scenario, chance)
    failed, empty = (_bad(rate, users, scenario.people, chance) for rate in (_FAILED, _EMPTY))
    seconds = _seconds(users, scenario.people, chance)
    if method is Method.INTERLEAVE:
        stream, teams = interleaved(scenario, users, prone, experiment.salt, chance, usable=~failed)
        rows = _interleaved_rows(users, teams, failed, seconds, chance)
        return Served(experiment, scenario, stream, rows, np.zeros_like(arms), {})
    stream = side_by_side(scenario, users, prone, chance, usable=~(failed | empty))
    rows = _rows(users, arms, failed, empty, seconds)
    return Served(experiment, scenario, stream, rows, arms, _history(scenario, prone, chance))


@dataclass(frozen=True)
class Ended:
    """The end of an experiment."""

    scenario: str
    verdict: Verdict
    cause: str
    """"metric", "guardrail" or "sample ratio"; empty where there was no verdict."""
    looks: int
    """Events after which it was judged."""


def ended(served: Served, *, judged_throughout: bool = False) -> Ended:
    """Look at an experiment after every event, until there is a verdict.

    Its numbers are compared with the bounds of the product for all events at once; where they pass one, or where it is
    `judged_throughout`, the product judges after every event. Raises RuntimeError where it comes to another end.
    """
    event = first_beyond(served)
    if event is None and not judged_throughout:
        return Ended(served.scenario.name, Verdict.GO_ON, "", len(served.stream.users))
    judged = _judged(served)
    if judged.looks - 1 != (len(served.stream.users) - 1 if event is None else event):
        raise RuntimeError(f"{served.plan.name}: the product judges otherwise than its numbers say")
    return judged


def _judged(served: Served) -> Ended:
    found = list(judgments(served))
    last = found[-1]
    if last.verdict is Verdict.GO_ON:
        return Ended(served.scenario.name, last.verdict, "", len(found))
    causes = {"users do not fall": "sample ratio", "guardrail": "guardrail"}
    cause = next((cause for words, cause in causes.items() if last.reasons[0].startswith(words)), "metric")
    return Ended(served.scenario.name, last.verdict, cause, len(found))


def first_beyond(served: Served) -> int | None:
    """The first event after which a number of the experiment is beyond a bound of the product; None without any."""
    plan, arms = served.plan, range(2)
    primary = _findings(served, plan.primary_metric, served.stream, plan.alpha)
    least = plan.minimum_effect * (1.0 if plan.method is Method.INTERLEAVE else np.abs(primary.control_mean))
    beyond = (primary.low > 0) | (primary.high < 0) | ((primary.low > -least) & (primary.high < least))
    for rule in plan.guardrails:
        found = _findings(served, rule.metric, _latencies(served), GUARDRAIL_ALPHA / guardrail_count(plan))
        beyond |= found.low > rule.allowed_change * found.control_mean
    events = np.flatnonzero(served.stream.places == NOTHING)  # of the answers, in their order
    seen = Observations(plan)
    for guardrail in guardrails_of(plan, seen):
        counts = [np.zeros(len(events), np.int64) for _ in arms]
        for arm in arms:
            first: set[int] = set()
            for answer, unit in _bad_answers(served, guardrail.evidence.guardrail, arm):
                counts[arm][answer] = unit not in first
                first.add(unit)
        ours, theirs = np.cumsum(counts[1]), np.cumsum(counts[0])
        changes = np.flatnonzero(counts[0] + counts[1])
        broken = log_evidence(ours[changes], theirs[changes]) >= guardrail.evidence.log_threshold
        beyond[events[changes[broken]]] = True
    users = _drawn(served)
    mismatch = log_multinomial([np.cumsum(users == arm) for arm in arms], [0.5, 0.5])
    beyond[events[mismatch >= MISMATCH_THRESHOLD]] = True
    return int(np.argmax(beyond)) if beyond.any() else None


def _bad_answers(served: Served, guardrail: Guardrail, arm: int) -> Iterator[tuple[int, int]]:
    """Answers that speak against an arm, and their users: as `Observations` counts them."""
    slow = SlowAnswers()
    name = (CONTROL, TREATMENT)[arm]
    for answer, row in enumerate(served.rows):
        if guardrail is Guardrail.LATENCY:
            if served.plan.method is Method.INTERLEAVE:
                ours, theirs = row.arm_seconds
                late = ours is not None and theirs is not None and _slower(slow, ours, theirs)[arm]
            else:
                treated = row.arm == TREATMENT
                late = row.ending is not Ending.FAILED and slow.slow(row.seconds or 0.0, control=not treated)
                late = late and row.arm == name
            if late:
                yield answer, row.unit
        elif guardrail is Guardrail.EMPTY_RESULTS:
            if row.ending is Ending.EMPTY and row.arm == name:
                yield answer, row.unit
        elif row.missing_arm == name or (row.ending is Ending.FAILED and row.arm == name):
            yield answer, row.unit


def _slower(slow: SlowAnswers, control: float, treatment: float) -> tuple[bool, bool]:
    """True for the arm that was slow while the other was not."""
    ours, theirs = slow.slow(treatment, control=False), slow.slow(control, control=True)
    return theirs and not ours, ours and not theirs


def _drawn(served: Served) -> Ints:
    """Draw of chance for the user of each answer, if it is the first one: an arm, or the first choice; else -1."""
    found = np.full(len(served.rows), -1)
    there: set[int] = set()
    for answer, row in enumerate(served.rows):
        if served.plan.method is Method.INTERLEAVE:
            drawn = next((team - 1 for team in row.teams if team), -1)
        else:
            drawn = int(row.arm == TREATMENT)
        if drawn >= 0 and row.unit not in there:
            there.add(row.unit)
            found[answer] = drawn
    return found


def judgments(served: Served) -> Iterator[Judgment]:
    """The judgment after each event, up to the first verdict."""
    plan = served.plan
    seen = Observations(plan)
    primary = _findings(served, plan.primary_metric, served.stream, plan.alpha)
    limits = [
        _findings(served, rule.metric, _latencies(served), GUARDRAIL_ALPHA / guardrail_count(plan))
        for rule in plan.guardrails
    ]
    bad: Sequence[int] = ()
    users: Sequence[int] = ()
    mismatch, broken = "", guardrails_of(plan, seen)
    rows = zip(served.stream.answers.tolist(), served.stream.places.tolist(), strict=True)
    for event, (answer, place) in enumerate(rows):
        if place == NOTHING:
            seen.add((served.rows[answer],))
            # Guardrails are broken by the first bad answers of users alone, and users are counted once.
            if (found := [len(units) for arm in seen.arms for units in arm.bad_units.values()]) != bad:
                bad, broken = found, guardrails_of(plan, seen)
            if (found := [len(seen.first_teams), *(len(arm.units) for arm in seen.arms)]) != users:
                users, mismatch = found, fault(plan, seen, *sample_ratio(plan, seen))
        judgment = judge(
            plan,
            Evidence(
                mismatch,
                broken,
                [finding for metric in limits if (finding := metric.at(event))],
                [finding] if (finding := primary.at(event)) else [],
                0.0,
            ),
        )
        yield judgment
        if judgment.verdict is not Verdict.GO_ON:
            return


@dataclass(frozen=True)
class _Findings:
    """Findings of a metric after each event."""

    metric: Metric
    control_mean: Floats
    arm_mean: Floats
    users: Ints
    value: Floats
    low: Floats
    high: Floats

    def at(self, event: int) -> MetricFinding | None:
        """The finding after an event; None while its interval is infinite."""
        if np.isinf(self.high[event]):
            return None
        return MetricFinding(
            self.metric,
            TREATMENT,
            float(self.control_mean[event]),
            float(self.arm_mean[event]),
            float(self.value[event]),
            float(self.low[event]),
            float(self.high[event]),
            int(self.users[event]),
        )


def _findings(served: Served, metric: Metric, stream: Stream, alpha: float) -> _Findings:
    if metric is Metric.PREFERENCE:
        ours, _ = known(stream, np.ones(len(stream.users), bool))
        found = mean(ours, alpha)
        nothing = np.zeros(len(stream.users))
        return _Findings(metric, nothing, ours.mean, ours.count, found.value, found.low, found.high)
    past = served.past if metric is served.plan.primary_metric else None
    (theirs, before), (ours, after) = (known(stream, served.arms[stream.users] == arm, past) for arm in (0, 1))
    history = None if past is None else (after, before)
    found = difference(ours, theirs, alpha, history=history)
    users = ours.count + theirs.count
    return _Findings(metric, theirs.mean, ours.mean, users, found.value, found.low, found.high)


def _latencies(served: Served) -> Stream:
    """The stream of an experiment with the seconds of its answers as values."""
    whole = served.stream
    seconds = np.array(
        [np.nan if row.ending is Ending.FAILED or row.seconds is None else row.seconds for row in served.rows]
    )
    values = np.where(whole.places == NOTHING, seconds[whole.answers], np.nan)
    there = ~np.isnan(values)
    return Stream(whole.users, whole.answers, whole.places, there.astype(np.int64), np.where(there, values, 0.0))


# Answers


def _bad(rate: float, users: Ints, people: int, chance: np.random.Generator) -> Flags:
    """Answers with something bad: a few people have most of it."""
    prone = np.minimum(chance.gamma(0.3, rate / 0.3, people), 1.0)
    found: Flags = chance.random(len(users)) < prone[users]
    return found


def _seconds(users: Ints, people: int, chance: np.random.Generator) -> Floats:
    """Seconds of each answer: some people ask what takes longer."""
    return 0.1 * chance.lognormal(0.0, 0.3, people)[users] * chance.lognormal(0.0, 0.4, len(users))


def _row(user: int, arm: str, teams: bytes, time: int, ending: Ending, seconds: float) -> AnswerRow:
    return AnswerRow(user + 1, arm, teams, float(time), ending, seconds, 0, 1, (None, None), "", ())


def _rows(users: Ints, arms: Ints, failed: Flags, empty: Flags, seconds: Floats) -> list[AnswerRow]:
    endings = np.where(failed, Ending.FAILED, np.where(empty, Ending.EMPTY, Ending.ANSWERED))
    rows = zip(users.tolist(), arms[users].tolist(), endings.tolist(), seconds.tolist(), strict=True)
    return [
        _row(user, (CONTROL, TREATMENT)[arm], b"", time, Ending(ending), taken)
        for time, (user, arm, ending, taken) in enumerate(rows)
    ]


def _interleaved_rows(
    users: Ints, teams: Ints, late: Flags, seconds: Floats, chance: np.random.Generator
) -> list[AnswerRow]:
    """Answers of two arms; where one was `late`, of the other alone."""
    both = seconds[:, None] * chance.lognormal(0.0, 0.2, (len(users), 2))
    missing = chance.integers(2, size=len(users)).tolist()
    rows = zip(users.tolist(), teams.tolist(), late.tolist(), both.tolist(), missing, strict=True)
    return [
        _row(user, "", b"", time, Ending.ONE_ARM, min(taken))._replace(missing_arm=(CONTROL, TREATMENT)[arm])
        if alone
        else _row(user, "", bytes(sides), time, Ending.ANSWERED, max(taken))._replace(arm_seconds=(taken[0], taken[1]))
        for time, (user, sides, alone, taken, arm) in enumerate(rows)
    ]


def _history(scenario: Scenario, prone: Floats, chance: np.random.Generator) -> dict[int, float]:
    """Values before the run, of those who were there: the mean of a few answers."""
    there = np.flatnonzero(chance.random(scenario.people) < scenario.history_share)
    answers = chance.integers(1, 10, len(there))
    values = chance.binomial(answers, prone[there]) / answers
    return dict(zip((there + 1).tolist(), values.tolist(), strict=True))
