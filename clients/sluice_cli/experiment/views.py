"""Views of experiments: effects with their intervals, arms, and evidence as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import plain, words
from sluice_cli.calls import table as plain_table
from sluice_cli.experiment.readings import DECIDES, Reading, Told, metric_words, readings, relative
from sluice_cli.rollout import views
from sluice_client import (
    Experiment,
    ExperimentFindings,
    ExperimentMethod,
    ExperimentPlan,
    ExperimentState,
    ExperimentStatus,
    Verdict,
)

BAR_WIDTH = 25
_STATES = {ExperimentState.READY: "dim", ExperimentState.RUNNING: "cyan", ExperimentState.ENDED: ""}
_VERDICTS = {
    Verdict.SHIP: "bold green",
    Verdict.STOP: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.GO_ON: "cyan",
}
_TOLD = {
    Told.BETTER: "green",
    Told.NOT_WORSE: "green",
    Told.WORSE: "bold red",
    Told.AS_GOOD: "yellow",
    Told.OPEN: "",
    Told.TOO_EARLY: "dim",
}


def experiments_view(experiments: Sequence[Experiment]) -> Table:
    """Show all experiments, a line each."""
    table = plain_table("experiment", "state", "verdict", "method", "users", "layer", "arms", "reason")
    for one in experiments:
        plan = one.plan
        table.add_row(
            plain(one.name),
            Text(words(one.state), style=_STATES.get(one.state, "")),
            verdict_text(one),
            words(plan.method),
            views.percent(plan.share_ppm),
            plain(plan.layer or "default"),
            ", ".join(plain(arm.name) for arm in plan.arms),
            plain("; ".join(one.reasons)),
        )
    return table


def verdict_text(experiment: Experiment) -> Text:
    """Show a verdict in its colour; nothing before there is one."""
    verdict = experiment.verdict
    if verdict is None or experiment.state is ExperimentState.READY:
        return Text("")
    about = f" {plain(experiment.arm)}" if experiment.arm and verdict is not Verdict.GO_ON else ""
    return Text(f"{words(verdict)}{about}", style=_VERDICTS.get(verdict, ""))


def status_view(status: ExperimentStatus, now: datetime) -> RenderableType:
    """Show one experiment with its findings."""
    one, findings = status.experiment, status.findings
    plan = one.plan
    head = Text.assemble(
        (plain(one.name), "bold"),
        "  ",
        (words(one.state), _STATES.get(one.state, "")),
        "  ",
        verdict_text(one),
    )
    control, *arms = [plain(arm.name) for arm in plan.arms]
    about = [
        f"{words(plan.method)}: {' and '.join(arms)} against {control}",
        f"{views.percent(plan.share_ppm)} of the users",
    ]
    if one.start_time is not None:
        lasted = views.span((one.end_time or now) - one.start_time)
        about.append(f"for {lasted}" + (f" of at most {views.span(plan.horizon)}" if plan.horizon else ""))
    blocks: list[RenderableType] = [head, Text(", ".join(about), style="dim")]
    if findings is None:
        if one.state is ExperimentState.RUNNING:
            blocks.append(Text("no findings yet: users have to ask first", style="dim"))
    else:
        blocks += [arms_view(findings), effects_view(readings(one, findings))]
        if findings.guardrails or findings.log_mismatch_threshold > 0:
            blocks.append(guardrails_view(findings))
    blocks += [Text(f"- {plain(reason)}") for reason in one.reasons]
    return Padding(Group(*blocks), (0, 0, 1, 0), expand=False)


def arms_view(findings: ExperimentFindings) -> Table:
    """Show the totals of all arms."""
    numbers = ("users", "answers", "events", "failed", "one arm", "P50", "P95")
    table = _narrow("arm", *numbers, right=frozenset(numbers))
    for arm in findings.arms:
        table.add_row(
            plain(arm.arm) or "both",
            f"{arm.user_count:,}",
            f"{arm.impression_count:,}",
            f"{arm.event_count:,}",
            views.share_of(arm.failed_count, arm.impression_count),
            views.share_of(arm.one_arm_count, arm.impression_count) if arm.one_arm_count else "-",
            views.milliseconds(arm.p50),
            views.milliseconds(arm.p95),
        )
    return table


def effects_view(read: Sequence[Reading]) -> RenderableType:
    """Show the effects of all metrics with their intervals."""
    if not read:
        return Text("no metric has a value yet", style="dim")
    right = frozenset({"users", "mean", "control", "change"})
    table = _narrow("metric", "arm", "users", "mean", "control", "change", "interval", "- 0 +", "", right=right)
    for one in read:
        metric = metric_words(one.finding.metric)
        table.add_row(
            Text(metric, style="bold" if one.role == DECIDES else ""),
            plain(one.finding.arm),
            f"{one.finding.user_count:,}",
            one.arm,
            one.control or "-",
            one.change,
            one.interval or "-",
            interval_bar(one),
            Text(one.told if not one.limit_words else f"{one.told} ({one.limit_words})", style=_TOLD[one.told]),
        )
    return table


def interval_bar(one: Reading, width: int = BAR_WIDTH) -> Text:
    """Draw an interval around zero, which is in the middle."""
    low, value, high = (
        relative(one.finding, number) for number in (one.finding.lower, one.finding.difference, one.finding.upper)
    )
    middle = width // 2
    if not all(map(math.isfinite, (low, value, high))):
        return Text("·" * middle + "|" + "·" * middle, style="dim")
    most = max(abs(low), abs(high), 2 * (one.limit or 0.0), 1e-9)
    places = [min(width - 1, max(0, middle + round(number / most * middle))) for number in (low, value, high)]
    cells = ["·"] * width
    cells[places[0] : places[2] + 1] = "─" * (places[2] + 1 - places[0])
    cells[middle] = "|"
    cells[places[1]] = "●"
    return Text("".join(cells), style=_TOLD[one.told])


def guardrails_view(findings: ExperimentFindings) -> Table:
    """Show the evidence against the arms."""
    table = _narrow(
        "guardrail", "arm", "hit", "in control", "evidence against it", right=frozenset({"hit", "in control"})
    )
    for row in findings.guardrails:
        table.add_row(
            words(row.evidence.guardrail),
            plain(row.arm),
            f"{row.evidence.treatment_count:,}",
            f"{row.evidence.control_count:,}",
            views.evidence_bar(row.evidence.log_evidence, row.evidence.log_threshold),
        )
    if findings.log_mismatch_threshold > 0:
        bar = views.evidence_bar(findings.log_mismatch, findings.log_mismatch_threshold)
        table.add_row("users in each arm", "", "", "", bar)
    return table


def plan_view(plan: ExperimentPlan) -> RenderableType:
    """Show a plan in words."""
    table = plain_table("arm", "sets")
    for arm in plan.arms:
        sets = views.flags_words(arm.features) if arm.features else ""
        table.add_row(plain(arm.name), sets or "nothing: as users have it now")
    mixed = plan.method is ExperimentMethod.INTERLEAVE
    how = "results of both in each answer" if mixed else "one arm for each user"
    lines = [
        f"asks: {plain(plan.hypothesis)}",
        f"{words(plan.method)}: {how}, for {views.percent(plan.share_ppm)} of the users (layer "
        f"{plain(plan.layer) or 'default'})",
        f"decides: {metric_words(plan.primary)}; {plan.minimum_effect * 100:.3g} % matters",
    ]
    if plan.guardrails:
        rules = ", ".join(
            f"{metric_words(rule.metric)} by {rule.allowed_change * 100:.3g} %" for rule in plan.guardrails
        )
        lines.append(f"may be worse by no more than: {rules}")
    ends = f"after {views.span(plan.horizon)}" if plan.horizon is not None else "after 28 d"
    alpha = 0.05 if plan.alpha is None else plan.alpha
    lines.append(f"ends: when it is decided, or {ends}; false verdicts: at most {alpha * 100:.3g} %")
    return Group(Text(plain(plan.name), style="bold"), *map(Text, lines), table)


def _narrow(*columns: str, right: frozenset[str]) -> Table:
    made = plain_table(*columns, right=right)
    made.padding = (0, 1, 0, 0)  # 120 columns have room for all of it
    return made
