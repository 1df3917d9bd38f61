"""Kinds of panels of our dashboards, each with a unit and a description.

A panel that belongs to an alert draws the alert's thresholds and links to the alert's section of the runbook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, statetimeline, table, timeseries
from grafana_foundation_sdk.models.common import (
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana import runbook

Panel = timeseries.Panel | heatmap.Panel | statetimeline.Panel | table.Panel

WIDTH, HEIGHT = 8, 8
"""Size of a panel: three in a row."""

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_GREEN, _ORANGE, _RED = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """PromQL query, and the legend of its series."""

    expression: str
    legend: str
    exemplars: bool = False
    """True if the traces that histograms name are drawn as well."""


@dataclass(frozen=True)
class Limits:
    """Thresholds of an alert, from which a value is bad."""

    warning: float
    critical: float | None = None
    below: bool = False
    """True if lower is worse."""


def lines(  # each is a word of the panel
    title: str,
    description: str,
    *queries: Query,
    unit: str,
    stacked: bool = False,
    limits: Limits | None = None,
    alert: str = "",
) -> timeseries.Panel:
    """Draw values over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .fill_opacity(30 if stacked else 0)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .targets([_target(query, index) for index, query in enumerate(queries)])
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if limits:
        panel.thresholds(_thresholds(limits))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def buckets(title: str, description: str, query: Query, *, unit: str, alert: str = "") -> heatmap.Panel:
    """Draw a histogram over time; the query keeps `le`."""
    panel = (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .span(WIDTH)
        .height(HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64))
        .show_legend()
        .targets([_target(query, 0).format(PromQueryFormat.HEATMAP)])
    )
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def states(
    title: str, description: str, *queries: Query, names: Mapping[int, tuple[str, str]], alert: str = ""
) -> statetimeline.Panel:
    """Draw a state over time; `names` has a word and a colour for each value."""
    mapping = ValueMap({str(value): ValueMappingResult(text, colour) for value, (text, colour) in names.items()})
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .span(WIDTH)
        .height(HEIGHT)
        .mappings([mapping])
        .show_value(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .targets([_target(query, index) for index, query in enumerate(queries)])
    )
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def listing(
    title: str, description: str, query: Query, *, columns: Mapping[str, str], unit: str = "short", alert: str = ""
) -> table.Panel:
    """Draw a table of current values, one row a series; `columns` has labels and titles, in order."""
    organized = DataTransformerConfig(
        id_val="organize",
        options={
            "includeByName": dict.fromkeys(columns, True),
            "indexByName": {label: index for index, label in enumerate(columns)},
            "renameByName": dict(columns),
        },
    )
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .span(WIDTH)
        .height(HEIGHT)
        .transformations([organized])
        .targets([_target(query, 0).format(PromQueryFormat.TABLE).instant()])
    )
    if alert:
        panel.links([runbook_link(alert)])
    return panel


def dashboard_of(uid: str, title: str, description: str, panels: Mapping[str, Sequence[Panel]]) -> dashboard.Dashboard:
    """Build a dashboard of rows of panels, three in a row."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sluice"])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .variables([_datasource_choice(), _namespace_choice()])
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["sluice"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .link(dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK).url(f"/d/{runbook.UID}").icon("doc"))
    )
    number = 0
    for heading, beside in panels.items():
        number += 1
        built.with_row(dashboard.Row(heading).id(number))
        for panel in beside:
            number += 1
            built.with_panel(panel.id(number))
    return built


def runbook_link(alert: str) -> dashboard.DashboardLink:
    """Return a panel's link to the section of an alert."""
    return (
        dashboard.DashboardLink(f"Runbook: {alert}")
        .type(DashboardLinkType.LINK)
        .url(f"/d/{runbook.UID}?viewPanel=panel-{runbook.numbers()[alert]}")
    )


def _datasource_choice() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _namespace_choice() -> dashboard.QueryVariable:
    # Without namespaces, as on one machine, series without the label match `.*`.
    return (
        dashboard.QueryVariable("namespace")
        .label("Namespace")
        .datasource(_SOURCE)
        .query("label_values(sluice_build_info, namespace)")
        .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _target(query: Query, index: int) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(query.expression)
        .legend_format(query.legend)
        .ref_id(chr(ord("A") + index))
        .datasource(_SOURCE)
    )
    return target.exemplar(True) if query.exemplars else target


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    if limits.below:
        steps = [Threshold(None, _ORANGE), Threshold(limits.warning, _GREEN)]
        if limits.critical is not None:
            steps = [Threshold(None, _RED), Threshold(limits.critical, _ORANGE), Threshold(limits.warning, _GREEN)]
    else:
        steps = [Threshold(None, _GREEN), Threshold(limits.warning, _ORANGE)]
        if limits.critical is not None:
            steps.append(Threshold(limits.critical, _RED))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
