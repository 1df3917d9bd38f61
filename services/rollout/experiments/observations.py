"""Observations of a run: what its answers came to, by arm and user, from the rows of feedback. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.experiment.guardrails import Guardrail
from services.rollout import evidence
from services.rollout.experiments.findings import ArmTotals
from services.rollout.experiments.plan import METRICS_OF, ExperimentPlan, Method
from services.rollout.feedback.rows import AnswerRow, Ending
from sluice_statistics.answers import AnswerOutcome, Metric
from sluice_statistics.percentiles import percentile

WINDOW_ANSWERS = 200
"""Answers of control from whose P95 the threshold of slow answers is taken, for those that come after them."""
SLOWER = 1.1
"""Other arms are slow above so many thresholds, as treatment in a rollout."""
BOTH = ""
"""Name of the totals of interleaved answers, which are of both arms."""
_SERVED = (Ending.ANSWERED, Ending.EMPTY)


class SlowAnswers:
    """The threshold of slow answers, always from answers that came before: it cannot favour an arm."""

    def __init__(self) -> None:
        self._window: list[float] = []
        self._threshold = math.inf

    def slow(self, seconds: float, *, control: bool) -> bool:
        """True for a slow answer; one of control becomes part of the next threshold."""
        found = seconds > (self._threshold if control else self._threshold * SLOWER)
        if control:
            self._window.append(seconds)
            if len(self._window) == WINDOW_ANSWERS:
                self._threshold = percentile(self._window, 95)
                self._window = []
        return found


@dataclass(slots=True)
class ArmObservations:
    """Outcomes of the answers of one arm."""

    units: set[int] = field(default_factory=set)
    answers: int = 0
    events: int = 0
    failed: int = 0
    one_arm: int = 0
    seconds: list[float] = field(default_factory=list)
    bad_units: dict[Guardrail, set[int]] = field(default_factory=lambda: defaultdict(set))
    bad_answers: Counter[Guardrail] = field(default_factory=Counter)

    def bad(self, guardrail: Guardrail, unit: int) -> None:
        """Count a bad answer."""
        self.bad_units[guardrail].add(unit)
        self.bad_answers[guardrail] += 1

    def totals(self, name: str) -> ArmTotals:
        """The totals, for operators."""
        return ArmTotals(
            name,
            len(self.units),
            self.answers,
            self.events,
            self.failed,
            self.one_arm,
            percentile(self.seconds, 50) if self.seconds else None,
            percentile(self.seconds, 95) if self.seconds else None,
        )

    def evidence(self) -> evidence.ArmTotals:
        """The counts from which guardrails are weighed: of each user, the first bad answer."""
        return evidence.ArmTotals(
            request_count=self.answers,
            event_counts=dict(self.bad_answers),
            first_counts={guardrail: len(units) for guardrail, units in self.bad_units.items()},
        )


@dataclass(slots=True)
class Values:
    """Unit, arm and value in each metric of every answer that counts; nan for an answer that says nothing."""

    units: list[int] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)
    values: dict[Metric, list[float]] = field(default_factory=dict)


class Observations:
    """Sums up the answers of a run. Answers are added in the order of their time.

    For interleaving, `arms` hold what speaks against each arm alone, and `both` what the answers of both came to.
    """

    def __init__(self, plan: ExperimentPlan) -> None:
        self.arms = [ArmObservations() for _ in plan.arms]
        self.both = ArmObservations()
        self.values = Values(values={metric: [] for metric in METRICS_OF[plan.method]})
        self.crossed: set[int] = set()
        """Users who were seen in more than one arm; they count in their first."""
        self.first_teams: dict[int, int] = {}
        """The team that had the first choice in a user's first interleaved answer: a fair coin."""
        self._places = {arm.name: place for place, arm in enumerate(plan.arms)}
        self._interleaved = plan.method is Method.INTERLEAVE
        self._arm_of_unit: dict[int, int] = {}
        self._slow = SlowAnswers()

    def add(self, rows: Iterable[AnswerRow]) -> None:
        """Add answers. Those of nobody, or of an arm that the plan does not have, do not count."""
        for row in rows:
            if row.unit == 0:
                continue
            if self._interleaved:
                self._add_interleaved(row)
            elif row.arm in self._places:
                self._add_of_arm(row, self._places[row.arm])

    def _add_of_arm(self, row: AnswerRow, arm: int) -> None:
        if self._arm_of_unit.setdefault(row.unit, arm) != arm:
            self.crossed.add(row.unit)
            return
        seen = self.arms[arm]
        _count(seen, row)
        if row.ending is Ending.FAILED:
            seen.bad(Guardrail.ERRORS, row.unit)
        elif row.ending is Ending.EMPTY:
            seen.bad(Guardrail.EMPTY_RESULTS, row.unit)
        if row.ending in _SERVED and row.seconds is not None and self._slow.slow(row.seconds, control=arm == 0):
            seen.bad(Guardrail.LATENCY, row.unit)
        self._keep(row, arm)

    def _add_interleaved(self, row: AnswerRow) -> None:
        _count(self.both, row)
        self._compare_arms(row)
        if row.ending in _SERVED:
            first = next((team for team in row.teams if team), 0)
            if first:
                self.first_teams.setdefault(row.unit, first)
            self._keep(row, 0)

    def _compare_arms(self, row: AnswerRow) -> None:
        """Count what speaks against one arm of an interleaved answer: what is wrong with both says nothing."""
        missing = self._places.get(row.missing_arm)
        if missing is not None:
            self.arms[missing].bad(Guardrail.ERRORS, row.unit)
        for seen in self.arms:
            seen.answers += 1
        first, second = row.arm_seconds
        if first is not None and second is not None:
            # In this order, so that the threshold is the same for both.
            second_slow = self._slow.slow(second, control=False)
            first_slow = self._slow.slow(first, control=True)
            if first_slow != second_slow:
                self.arms[second_slow].bad(Guardrail.LATENCY, row.unit)

    def _keep(self, row: AnswerRow, arm: int) -> None:
        outcome = outcome_of(row)
        self.values.units.append(row.unit)
        self.values.arms.append(arm)
        for metric, values in self.values.values.items():
            values.append(value_of(row, outcome, metric))


def outcome_of(row: AnswerRow) -> AnswerOutcome:
    """The outcome of an answer."""
    return AnswerOutcome.of(
        row.events,
        seconds=row.seconds or 0.0,
        tokens=row.tokens,
        teams=row.teams,
        first_position=row.first_position,
    )


def value_of(row: AnswerRow, outcome: AnswerOutcome, metric: Metric) -> float:
    """Value of an answer in a metric; nan where it says nothing. A failed answer has no latency of its own."""
    if metric is Metric.LATENCY and (row.seconds is None or row.ending is Ending.FAILED):
        return math.nan
    value = outcome.value(metric)
    return math.nan if value is None else value


def _count(seen: ArmObservations, row: AnswerRow) -> None:
    seen.units.add(row.unit)
    seen.answers += 1
    seen.events += len(row.events)
    seen.failed += row.ending is Ending.FAILED
    seen.one_arm += row.ending is Ending.ONE_ARM
    if row.seconds is not None and row.ending in _SERVED:
        seen.seconds.append(row.seconds)
