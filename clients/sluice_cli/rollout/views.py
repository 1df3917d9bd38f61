"""What people see of features: shares, arms, evidence as bars, gateways and what they serve."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice_cli.calls import plain
from sluice_client import (
    EVERYBODY_PPM,
    Arm,
    ArmTotals,
    Feature,
    Features,
    FeatureState,
    FeatureStatus,
    Guardrail,
    HistoryEntry,
    Plan,
    Replica,
)

BAR_WIDTH = 20
_STYLES = {
    FeatureState.READY: "dim",
    FeatureState.RAMPING: "cyan",
    FeatureState.HELD: "yellow",
    FeatureState.COMPLETE: "green",
    FeatureState.ROLLED_BACK: "bold red",
    FeatureState.KILLED: "bold red",
}
_ARM_STYLES = {Arm.TREATMENT: "cyan", Arm.CONTROL: "magenta"}


def percent(ppm: int) -> str:
    """A share as people say it: 10 %, 0.5 %, 6.25 %."""
    return f"{ppm * 100 / EVERYBODY_PPM:.6g} %"


def share_of(part: float, whole: float) -> str:
    """A rate as people say it; nothing where there is nothing to share."""
    return f"{part / whole:.2%}".replace("%", " %") if whole else "-"


def milliseconds(seconds: float | None) -> str:
    """A latency."""
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def span(given: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = max(0, round(given.total_seconds()))
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((place for place, (count, _unit) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


def clock(time: datetime) -> str:
    """A moment, in the time zone of whoever looks."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def state_text(state: FeatureState) -> Text:
    """A state in its colour."""
    return Text(state, style=_STYLES.get(state, ""))


def overrides_words(overrides: Features) -> str:
    """What a feature switches, in words."""
    named = {name: getattr(overrides, name) for name in Features.__slots__}
    words = {True: "on", False: "off"}
    return ", ".join(
        f"{name.replace('_', ' ')} {words[value] if isinstance(value, bool) else value}"
        for name, value in named.items()
        if value is not None
    )


def features_view(features: Sequence[Feature]) -> Table:
    """All features, a line each."""
    table = _table("feature", "state", "users", "step", "switches", "why")
    for feature in features:
        table.add_row(
            plain(feature.name),
            state_text(feature.state),
            percent(feature.treatment_ppm),
            step_words(feature),
            overrides_words(feature.overrides),
            plain(feature.reason),
        )
    return table


def step_words(feature: Feature) -> str:
    """Which step of which plan a feature is in."""
    if feature.plan is None or feature.step == 0:
        return "-"
    return f"{feature.step} of {len(feature.plan.steps)} ({plain(feature.plan.name)})"


def status_view(status: FeatureStatus) -> RenderableType:
    """One feature with its arms and its evidence."""
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
    """How long a feature was watched in its step, of how long it has to be."""
    feature = status.feature
    if feature.plan is None or not 1 <= feature.step <= len(feature.plan.steps):
        return ""
    step = feature.plan.steps[feature.step - 1]
    words = f"step {feature.step} of {len(feature.plan.steps)} of {plain(feature.plan.name)}"
    if feature.state is not FeatureState.RAMPING:
        return words
    words += f", watched {span(status.watched)} of {span(step.dwell)}"
    return f"{words}, {'goes on by itself' if step.automatic else 'then waits for a promote'}"


def shares_bar(feature: Feature, width: int = 2 * BAR_WIDTH) -> Text:
    """Who gets what: treatment from the left, control from the right, the others between."""
    treated = min(width, round(feature.treatment_ppm * width / EVERYBODY_PPM))
    if feature.treatment_ppm and not treated:
        treated = 1
    control = min(treated, width - treated) if feature.state in {FeatureState.RAMPING, FeatureState.HELD} else 0
    return Text.assemble(
        ("█" * treated, _ARM_STYLES[Arm.TREATMENT]),
        ("░" * (width - treated - control), "dim"),
        ("█" * control, _ARM_STYLES[Arm.CONTROL]),
    )


def arms_view(arms: Sequence[ArmTotals]) -> Table:
    """What both arms saw in this step."""
    table = _table("arm", "requests", "users", "errors", "empty", "P50", "P95", "P99", "quality", "overlap")
    for totals in arms:
        table.add_row(
            Text(totals.arm, style=_ARM_STYLES.get(totals.arm, "")),
            f"{totals.request_count:,}",
            f"{totals.unit_count:,}",
            share_of(totals.bad_events.get(Guardrail.ERRORS, 0), totals.request_count),
            share_of(totals.bad_events.get(Guardrail.EMPTY_RESULTS, 0), totals.request_count),
            milliseconds(totals.p50),
            milliseconds(totals.p95),
            milliseconds(totals.p99),
            "-" if totals.quality_score is None else f"{totals.quality_score:.3f}",
            "-" if totals.shadow_overlap is None else f"{totals.shadow_overlap:.2f}",
        )
    return table


def guardrails_view(status: FeatureStatus) -> Table:
    """Evidence against a feature on its way to a breach, and for it on its way to being shown."""
    against = ("green", "yellow", "bold red")
    table = _table("guardrail", "users hit: treatment", "control", "evidence against it", "shown not worse")
    for evidence in status.guardrails:
        table.add_row(
            evidence.guardrail,
            f"{evidence.treatment_count:,}",
            f"{evidence.control_count:,}",
            _bar(evidence.log_evidence, evidence.log_threshold, against),
            _bar(
                evidence.log_non_inferiority, evidence.log_non_inferiority_threshold, ("dim", "dim green", "bold green")
            ),
        )
    for limit in status.limits:
        allowed = f"{share_of(limit.share, 1)} may be beyond"
        table.add_row(
            f"limit: {plain(limit.name)}",
            f"{limit.bad_count:,}",
            "",
            _bar(limit.log_evidence, limit.log_threshold, against),
            Text(allowed, style="dim"),
        )
    if status.log_mismatch_threshold > 0:
        bar = _bar(status.log_mismatch, status.log_mismatch_threshold, against)
        table.add_row("users in each arm", "", "", bar, "")
    return table


def _bar(value: float, threshold: float, styles: tuple[str, str, str]) -> Text:
    """How far evidence is on its way to its threshold, in nats: below half of it, above, there."""
    if threshold <= 0:
        return Text("-", style="dim")
    way = min(1.0, max(0.0, value / threshold))
    style = styles[2] if value >= threshold else styles[1] if way >= 0.5 else styles[0]
    full = int(way * BAR_WIDTH)
    return Text.assemble(
        ("█" * full, style), ("░" * (BAR_WIDTH - full), "dim"), (f" {value:.1f} of {threshold:.1f}", style)
    )


def gateways_view(gateways: Sequence[Replica], newest: int, now: datetime | None = None) -> RenderableType:
    """The gateways, and whether they serve the newest snapshot."""
    if not gateways:
        return Text("no gateway has been seen yet", style="yellow")
    table = _table("gateway", "snapshot", "seen", "state")
    for replica in sorted(gateways, key=lambda replica: (not replica.live, replica.name)):
        notes = [Text("live", style="green") if replica.live else Text("gone", style="dim")]
        if replica.live and replica.version < newest:
            notes.append(Text(f"behind {newest}", style="yellow"))
        notes += [
            Text(f"does not serve {plain(name)}: {plain(why)}", style="bold red")
            for name, why in sorted(replica.quarantined.items())
        ]
        if replica.locally_killed:
            names = ", ".join(plain(name) for name in replica.locally_killed)
            notes.append(Text(f"killed there: {names}", style="bold red"))
        seen = span((now or datetime.now(UTC)) - replica.last_seen) if replica.last_seen else "never"
        table.add_row(plain(replica.name), str(replica.version), f"{seen} ago", Text(", ").join(notes))
    return table


def history_view(entries: Sequence[HistoryEntry]) -> Table:
    """What happened, oldest first."""
    table = _table("#", "when", "feature", "what", "users", "by", "on all gateways", "why")
    for entry in entries:
        table.add_row(
            str(entry.number),
            clock(entry.time),
            plain(entry.feature),
            entry.action.lower().replace("_", " "),
            share_words(entry),
            plain(entry.actor),
            done_words(entry),
            plain(entry.reason),
        )
    return table


def share_words(entry: HistoryEntry) -> str:
    """The share that something left, and the one before where it was another."""
    share = percent(entry.new_treatment_ppm)
    if entry.old_treatment_ppm == entry.new_treatment_ppm:
        return share
    return f"{percent(entry.old_treatment_ppm)} -> {share}"


def done_words(entry: HistoryEntry) -> str:
    """How long it took until all gateways served it."""
    if entry.done is None:
        return "-" if entry.old_treatment_ppm == entry.new_treatment_ppm else "not yet"
    return f"after {(entry.done - entry.time).total_seconds():.2f} s"


def plan_view(plan: Plan, overrides: Features | None = None) -> RenderableType:
    """A plan's steps and criteria."""
    table = _table("step", "users", "at least", "then")
    for number, step in enumerate(plan.steps, start=1):
        goes_on = "goes on by itself" if step.automatic else "waits for a promote"
        table.add_row(str(number), percent(step.treatment_ppm), span(step.dwell), goes_on)
    lines = [Text(f"must hold: {criteria_words(plan)}")]
    if overrides is not None:
        lines.insert(0, Text(f"switches: {overrides_words(overrides)}"))
    if plan.holdback_ppm:
        lines.append(Text(f"stay without it at the end: {percent(plan.holdback_ppm)}"))
    if plan.shadow_ppm:
        lines.append(Text(f"answered both ways, for quality: {percent(plan.shadow_ppm)} of control's requests"))
    return Group(*lines, table)


def criteria_words(plan: Plan) -> str:
    """What must hold, in words."""
    criteria = plan.criteria
    named = (
        (criteria.error_rate_max, "errors at most {:.3g} %", 100),
        (criteria.p95_increase_max, "P95 at most {:.3g} % over control", 100),
        (criteria.p99_increase_max, "P99 at most {:.3g} % over control", 100),
        (criteria.p95_max, "P95 at most {:.3g} s", 1),
        (criteria.p99_max, "P99 at most {:.3g} s", 1),
        (criteria.quality_score_min, "quality at least {:.3g}", 1),
        (criteria.allowed_ratio, "at most {:.3g} times control's bad events", 1),
        (criteria.non_inferiority_ratio, "shown to be less than {:.3g} times before it goes on", 1),
    )
    return "; ".join(words.format(value * scale) for value, words, scale in named if value is not None) or "nothing"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    right = {"#", "users", "requests", "errors", "empty", "P50", "P95", "P99", "quality", "overlap", "snapshot"}
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right or column in _COUNTS else "left")
    return table


_COUNTS = {"users hit: treatment", "control"}
