"""Views of features: shares, arms, evidence as bars, and gateways."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import plain, words
from sluice_cli.calls import table as plain_table
from sluice_client import (
    EVERYBODY_PPM,
    Arm,
    ArmTotals,
    Feature,
    Features,
    FeatureState,
    FeatureStatus,
    Gateway,
    Guardrail,
    HistoryEntry,
    Plan,
    flag_values,
)

BAR_WIDTH = 10
_STYLES = {
    FeatureState.READY: "dim",
    FeatureState.RAMPING: "cyan",
    FeatureState.HELD: "yellow",
    FeatureState.COMPLETE: "green",
    FeatureState.ROLLED_BACK: "bold red",
    FeatureState.KILLED: "bold red",
}
AGAINST = ("green", "yellow", "bold red")
"""Styles of evidence against something: none, half, enough."""
_ARM_STYLES = {Arm.TREATMENT: "cyan", Arm.CONTROL: "magenta"}


def percent(ppm: int) -> str:
    """Write a share in percent: 10 %, 0.5 %, 6.25 %."""
    return f"{ppm * 100 / EVERYBODY_PPM:.6g} %"


def share_of(part: float, whole: float) -> str:
    """Write a rate in percent; "-" without trials."""
    return f"{part / whole:.2%}".replace("%", " %") if whole else "-"


def milliseconds(latency: timedelta | None) -> str:
    """Write a latency in milliseconds, or in seconds from ten on."""
    if latency is None:
        return "-"
    seconds = latency.total_seconds()
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def span(given: timedelta) -> str:
    """Write a length of time in its two largest units."""
    seconds = max(0, round(given.total_seconds()))
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((place for place, (count, _unit) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def clock(time: datetime) -> str:
    """Write a moment in the local time zone."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def state_text(state: FeatureState) -> Text:
    """Show a state in its colour."""
    return Text(words(state), style=_STYLES.get(state, ""))


def flags_words(features: Features) -> str:
    """List flags in words: "rerank on, rerank candidate count 50"."""
    switched = {True: "on", False: "off"}
    return ", ".join(
        f"{words(name)} {switched[value] if isinstance(value, bool) else value}"
        for name, value in flag_values(features).items()
    )


def features_view(features: Sequence[Feature]) -> Table:
    """Show all features, a line each."""
    table = _table("feature", "state", "users", "step", "flags", "reason")
    for feature in features:
        table.add_row(
            plain(feature.name),
            state_text(feature.state),
            percent(feature.treatment_ppm),
            step_words(feature),
            flags_words(feature.features),
            plain(feature.reason),
        )
    return table


def step_words(feature: Feature) -> str:
    """Name the step and the plan of a feature."""
    if feature.plan is None or feature.step == 0:
        return "-"
    return f"{feature.step} of {len(feature.plan.steps)} ({plain(feature.plan.name)})"


def status_view(status: FeatureStatus) -> RenderableType:
    """Show one feature with its arms and its evidence."""
    feature = status.feature
    head = Text.assemble(
        (plain(feature.name), "bold"),
        "  ",
        state_text(feature.state),
        "  ",
        (percent(feature.treatment_ppm), "bold"),
        " of the users",
    )
    about = [step_progress(status)]
    if feature.breach_count:
        about.append(f"{feature.breach_count} breach{'es' if feature.breach_count > 1 else ''} since it was armed")
    if feature.reason:
        about.append(plain(feature.reason))
    blocks: list[RenderableType] = [
        head,
        Text("; ".join(part for part in about if part), style="dim"),
        shares_bar(feature),
    ]
    if any(totals.request_count for totals in status.arms):
        blocks.append(arms_view(status.arms))
    if status.guardrails:
        blocks.append(guardrails_view(status))
    if status.obstacles and feature.state in {FeatureState.RAMPING, FeatureState.HELD}:
        blocks.append(Text(f"before the next step: {'; '.join(map(plain, status.obstacles))}", style="dim"))
    return Padding(Group(*blocks), (0, 0, 1, 0), expand=False)


def step_progress(status: FeatureStatus) -> str:
    """Show the time watched in a step, and the time needed."""
    feature = status.feature
    if feature.plan is None or not 1 <= feature.step <= len(feature.plan.steps):
        return ""
    step = feature.plan.steps[feature.step - 1]
    progress = f"step {feature.step} of {len(feature.plan.steps)} of {plain(feature.plan.name)}"
    if feature.state is not FeatureState.RAMPING:
        return progress
    progress += f", watched {span(status.watched_duration)} of {span(step.dwell)}"
    return f"{progress}, {'goes on by itself' if step.automatic else 'then waits for a promote'}"


def shares_bar(feature: Feature, width: int = 4 * BAR_WIDTH) -> Text:
    """Draw the shares: treatment from the left, control from the right."""
    treated = min(width, round(feature.treatment_ppm * width / EVERYBODY_PPM))
    if feature.treatment_ppm and not treated:
        treated = 1
    control = min(treated, width - treated) if feature.state in {FeatureState.RAMPING, FeatureState.HELD} else 0
    return Text.assemble(
        ("█" * treated, _ARM_STYLES[Arm.TREATMENT]),
        ("░" * (width - treated - control), "dim"),
        ("█" * control, _ARM_STYLES[Arm.CONTROL]),
    )


def arms_view(arms: Sequence[ArmTotals]) -> RenderableType:
    """Show the totals of both arms in this step; "not run": the feature's own stage did not do its work."""
    table = _table("arm", "requests", "users", "errors", "empty", "not run", "P50", "P95", "P99", narrow=True)
    for totals in arms:
        table.add_row(
            Text(totals.arm, style=_ARM_STYLES.get(totals.arm, "")),
            f"{totals.request_count:,}",
            f"{totals.unit_count:,}",
            share_of(totals.bad_event_count(Guardrail.ERRORS), totals.request_count),
            share_of(totals.bad_event_count(Guardrail.EMPTY_RESULTS), totals.request_count),
            share_of(totals.bad_event_count(Guardrail.EXPOSURE), totals.request_count),
            milliseconds(totals.p50),
            milliseconds(totals.p95),
            milliseconds(totals.p99),
        )
    quality = [f"{totals.arm} {totals.quality_score:.3f}" for totals in arms if totals.quality_score is not None]
    pairs = [f"{totals.shadow_overlap:.2f}" for totals in arms if totals.shadow_overlap is not None]
    judged = [
        f"{what}: {', '.join(values)}" for what, values in (("quality", quality), ("overlap of pairs", pairs)) if values
    ]
    return Group(table, Text("; ".join(judged))) if judged else table


def guardrails_view(status: FeatureStatus) -> Table:
    """Show the evidence against a feature and for it."""
    table = _table("guardrail", "treatment", "control", "evidence against it", "shown not worse", narrow=True)
    for evidence in status.guardrails:
        table.add_row(
            words(evidence.guardrail),
            f"{evidence.treatment_count:,}",
            f"{evidence.control_count:,}",
            evidence_bar(evidence.log_evidence, evidence.log_threshold, AGAINST),
            evidence_bar(
                evidence.log_non_inferiority, evidence.log_non_inferiority_threshold, ("dim", "dim green", "bold green")
            ),
        )
    for limit in status.limits:
        allowed = f"at most {share_of(limit.allowed_ratio, 1)}"
        table.add_row(
            f"limit: {plain(limit.label)}",
            f"{limit.bad_count:,}",
            "",
            evidence_bar(limit.log_evidence, limit.log_threshold, AGAINST),
            Text(allowed, style="dim"),
        )
    if status.log_mismatch_threshold > 0:
        bar = evidence_bar(status.log_mismatch, status.log_mismatch_threshold, AGAINST)
        table.add_row("users in each arm", "", "", bar, "")
    return table


def evidence_bar(value: float, threshold: float, styles: tuple[str, str, str] = AGAINST) -> Text:
    """Draw evidence on its way to a threshold, in nats."""
    if threshold <= 0:
        return Text("-", style="dim")
    way = min(1.0, max(0.0, value / threshold))
    style = styles[2] if value >= threshold else styles[1] if way >= 0.5 else styles[0]
    full = int(way * BAR_WIDTH)
    return Text.assemble(
        ("█" * full, style), ("░" * (BAR_WIDTH - full), "dim"), (f" {value:.1f}/{threshold:.1f}", style)
    )


def gateways_view(gateways: Sequence[Gateway], newest: int, now: datetime | None = None) -> RenderableType:
    """Show the gateways and the snapshots that they serve."""
    if not gateways:
        return Text("no gateway has been seen yet", style="yellow")
    table = _table("gateway", "snapshot", "seen", "state")
    for replica in sorted(gateways, key=lambda replica: (not replica.live, replica.name)):
        notes = [Text("live", style="green") if replica.live else Text("gone", style="dim")]
        if replica.live and replica.version < newest:
            notes.append(Text(f"behind {newest}", style="yellow"))
        notes += [
            Text(f"does not serve {plain(feature.name)}: {plain(feature.reason)}", style="bold red")
            for feature in replica.quarantined
        ]
        if replica.locally_killed:
            names = ", ".join(plain(name) for name in replica.locally_killed)
            notes.append(Text(f"killed there: {names}", style="bold red"))
        seen = span((now or datetime.now(UTC)) - replica.last_seen_time) if replica.last_seen_time else "never"
        table.add_row(plain(replica.name), str(replica.version), f"{seen} ago", Text(", ").join(notes))
    return table


def history_view(entries: Sequence[HistoryEntry]) -> Table:
    """Show the history, oldest first."""
    table = _table("#", "time", "feature", "action", "users", "by", "on all gateways", "reason")
    for entry in entries:
        table.add_row(
            str(entry.number),
            clock(entry.time),
            plain(entry.feature),
            words(entry.action),
            share_words(entry),
            plain(entry.actor),
            done_words(entry),
            plain(entry.reason),
        )
    return table


def share_words(entry: HistoryEntry) -> str:
    """Write the share after an entry, and before if it differs."""
    share = percent(entry.new_treatment_ppm)
    if entry.old_treatment_ppm == entry.new_treatment_ppm:
        return share
    return f"{percent(entry.old_treatment_ppm)} -> {share}"


def done_words(entry: HistoryEntry) -> str:
    """Write the time until all gateways served an entry."""
    if entry.done_time is None:
        return "-" if entry.old_treatment_ppm == entry.new_treatment_ppm else "not yet"
    return f"after {(entry.done_time - entry.time).total_seconds():.2f} s"


def plan_view(plan: Plan, features: Features) -> RenderableType:
    """Show a plan's flags, steps and criteria."""
    table = _table("step", "users", "at least", "then")
    for number, step in enumerate(plan.steps, start=1):
        goes_on = "goes on by itself" if step.automatic else "waits for a promote"
        table.add_row(str(number), percent(step.treatment_ppm), span(step.dwell), goes_on)
    lines = [Text(f"sets: {flags_words(features)}"), Text(f"must hold: {criteria_words(plan)}")]
    if plan.holdout_ppm:
        lines.append(Text(f"stay without it at the end: {percent(plan.holdout_ppm)}"))
    if plan.shadow_ppm:
        lines.append(Text(f"answered both ways, for quality: {percent(plan.shadow_ppm)} of control's requests"))
    return Group(*lines, table)


def criteria_words(plan: Plan) -> str:
    """Write the criteria of a plan in words."""
    criteria = plan.criteria
    named = (
        (criteria.error_rate_max, "errors at most {:.3g} %", 100),
        (criteria.exposure_failure_rate_max, "at most {:.3g} % without the feature", 100),
        (criteria.p95_increase_max, "P95 at most {:.3g} % over control", 100),
        (criteria.p99_increase_max, "P99 at most {:.3g} % over control", 100),
        (_seconds(criteria.p95_max), "P95 at most {:.3g} s", 1),
        (_seconds(criteria.p99_max), "P99 at most {:.3g} s", 1),
        (criteria.quality_score_min, "quality at least {:.3g}", 1),
        (criteria.satisfaction_min, "satisfaction at least {:.3g}", 1),
        (criteria.allowed_ratio, "at most {:.3g} times control's bad events", 1),
        (criteria.non_inferiority_ratio, "shown to be less than {:.3g} times before it goes on", 1),
    )
    return "; ".join(text.format(value * scale) for value, text, scale in named if value is not None) or "nothing"


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _table(*columns: str, narrow: bool = False) -> Table:
    made = plain_table(*columns, right=_NUMBERS)
    if narrow:  # 80 columns have room for all of it
        made.padding = (0, 1, 0, 0)
    return made


_NUMBERS = frozenset({"#", "users", "requests", "errors", "empty", "not run", "P50", "P95", "P99"})
_NUMBERS |= {"snapshot", "treatment", "control"}
