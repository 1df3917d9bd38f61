"""Rules, dashboards and the runbook name series, commands and sections that exist."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from google.protobuf import descriptor_pool

from deploy.docker import compose
from deploy.docker.compose import RUNBOOK_URL
from deploy.grafana import runbook
from deploy.grafana.__main__ import FOLDER, SOURCES, rendered
from sluice.gateway.v1 import search_pb2  # noqa: F401  so that its service is known
from sluice.rollout.v1 import feedback_pb2  # noqa: F401  so that its service is known
from sluice_cli.main import app
from tools.alerts_check import DASHBOARDS, RULES, RUNBOOK, TESTS, queries_of_dashboard, queries_of_runbook

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = runbook.sections()
RULES_OF = {
    file.stem: [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    for file in RULES
}
ALERTS: list[dict[str, Any]] = [rule for rules in RULES_OF.values() for rule in rules if "alert" in rule]
SEVERITIES = {
    "SluiceSearchFailures": {"warning", "critical"},
    "SluiceDegradedAnswers": {"warning", "critical"},
    "SluiceVolumeFull": {"warning", "critical"},
    "SluiceCertificateExpires": {"warning", "critical"},
    "SluiceAuditNotWritten": {"critical"},
    "SluicePrecisionRefused": {"warning"},
    "SluiceSearchP95": {"warning", "critical"},
    "SluiceSearchP99": {"warning", "critical"},
    "SluiceRetrievalP99": {"warning", "critical"},
    "SluiceEmbeddingP99": {"warning"},
    "SluiceRerankP99": {"warning"},
    "SluiceBreakerOpen": {"warning"},
    "SluicePoolWaiting": {"warning"},
    "SluiceQdrantRetries": {"warning"},
    "SluiceQdrantNodeAway": {"warning"},
    "SluiceEngineDies": {"warning", "critical"},
    "SluiceEngineLogSetAside": {"warning"},
    "SluiceVersionDamaged": {"critical"},
    "SluiceVersionNotRebuilt": {"warning"},
    "SluiceRerankWithoutCandidates": {"warning"},
    "SluiceFewVariants": {"warning"},
    "SluiceReasonerFallsBack": {"warning"},
    "SluiceAnswersUnsupported": {"warning"},
    "SluiceEnrichmentScoreLow": {"warning", "critical"},
    "SluiceScoresCollapsed": {"critical"},
    "SluicePseudoEmbeddings": {"critical"},
    "SluiceFingerprintMismatch": {"critical"},
    "SluiceStageDown": {"warning", "critical"},
    "SluiceExperimentNotAnalysed": {"warning"},
    "SluiceExperimentStopped": {"warning"},
    "SluiceSnapshotStale": {"warning"},
    "SluiceRollbackUnacknowledged": {"critical"},
    "SluiceSampleRatioMismatch": {"warning"},
    "SluiceFeatureQuarantined": {"warning"},
    "SluiceOverridesNotUnderstood": {"critical"},
    "SluiceFeedbackNotStored": {"warning"},
}

# Series of Prometheus itself, of its client library and of the kubelet.
FOREIGN = {
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "up",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
}
QUESTIONS = ("Means", "Users see", "First look", "Causes", "Do.", "Back out")
WORDS = {"and", "or", "unless", "by", "on", "without", "group_left", "group_right", "bool", "offset", "ignoring"}


def metrics_in(query: str) -> set[str]:
    """Return the names of series in a query: without strings, labels, functions and PromQL's words."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - WORDS


def known_metrics() -> set[str]:
    """Return the series of docs/metrics.md and of the stages, with histograms' parts and recorded series."""
    named = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    for source in (ROOT / "services").glob("*/metrics.py"):
        pattern = r'(?:(?:Counter|Gauge|Histogram|GaugeMetricFamily)\(\s*| name = )"(\w+)"'
        named |= set(re.findall(pattern, source.read_text()))
    parts = {f"{name}_{part}" for name in named for part in ("bucket", "sum", "count")}
    recorded = {rule["record"] for rules in RULES_OF.values() for rule in rules if "record" in rule}
    return named | parts | recorded | FOREIGN


def said_commands() -> Iterator[tuple[str, str]]:
    """Yield section and command, for all our commands in the runbook."""
    for heading, body in SECTIONS.items():
        blocks = "\n".join(re.findall(r"```console\n(.*?)```", body, re.DOTALL))
        prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
        for line in [*re.findall(r"^\$ (.+)$", blocks, re.MULTILINE), *re.findall(r"`([^`]+)`", prose)]:
            if line.startswith(("sluice ", "make ")):
                yield heading, line


def test_every_alert_of_the_table_is_there_in_every_severity() -> None:
    found: dict[str, set[str]] = {}
    for alert in ALERTS:
        found.setdefault(alert["alert"], set()).add(alert["labels"]["severity"])
    assert found == SEVERITIES


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_an_alert_says_what_is_wrong_and_links_to_its_section_of_the_runbook(alert: dict[str, Any]) -> None:
    assert alert["annotations"]["summary"] and alert["annotations"]["description"]
    assert alert["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{alert['alert'].lower()}"
    assert f"## {alert['alert']}\n" in RUNBOOK.read_text()


@pytest.mark.parametrize("name", SEVERITIES)
def test_a_section_of_the_runbook_answers_the_same_questions_as_the_others(name: str) -> None:
    body = SECTIONS[name]
    asked = [
        body.find(f"**{question}") for question in ("Means", "Users see", "First look", "Causes", "Do.", "Back out")
    ]
    assert -1 not in asked and asked == sorted(asked)
    assert queries_of_runbook_section(body), "the first look has at least one query"


def queries_of_runbook_section(body: str) -> list[str]:
    return re.findall(r"```promql\n(.*?)\n```", body, re.DOTALL)


def test_rules_and_dashboards_ask_for_services_and_methods_that_exist() -> None:
    """A renamed service would leave an alert without a series, and so without a voice."""
    asked = [file.read_text().replace('\\"', '"') for file in [*RULES, *DASHBOARDS]]
    names = {name for text in asked for name in re.findall(r'grpc_service="([\w.]+)", grpc_method="(\w+)"', text)}
    assert names
    for service, method in names:
        assert method in descriptor_pool.Default().FindServiceByName(service).methods_by_name


def test_links_to_the_runbook_begin_as_one_setting_says() -> None:
    for name, text in compose.rules("https://wiki.example/sluice").items():
        links = re.findall(r"runbook_url: (.*)#", text)
        assert set(links) <= {"https://wiki.example/sluice"}, name
        assert links or name == "recordings.yaml"


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    fires: dict[str, set[str]] = {}
    quiet = set()
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                for expected in case["exp_alerts"]:
                    fires.setdefault(case["alertname"], set()).add(expected["exp_labels"]["severity"])
                if not case["exp_alerts"]:
                    quiet.add(case["alertname"])
    assert fires == SEVERITIES
    assert quiet == set(SEVERITIES)


@pytest.mark.parametrize("name", SOURCES)
def test_dashboards_are_those_of_their_source(name: str) -> None:
    assert (FOLDER / name).read_text() == rendered(name), "run `make docs`"


def test_every_panel_has_words_a_unit_and_a_data_source_that_can_be_chosen() -> None:
    for file in DASHBOARDS:
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            if panel["type"] in {"row", "text"}:
                continue
            assert panel["title"] and panel["description"], panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            for target in panel["targets"]:
                assert target["datasource"]["uid"] == "${datasource}", panel["title"]
            if panel["type"] == "timeseries":
                assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
                assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_the_stages_have_seven_rows() -> None:
    panels = json.loads((FOLDER / "sluice.json").read_text())["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == [
        *("Latency by stage", "Pool health", "Quality indicators", "Enrichment", "Answers in words", "Resources"),
        "Callers",
    ]


@pytest.mark.parametrize("file", [*RULES, *DASHBOARDS], ids=lambda file: file.name)
def test_rules_and_dashboards_ask_for_series_that_exist(file: Path) -> None:
    queries = [rule["expr"] for rule in RULES_OF[file.stem]] if file in RULES else queries_of_dashboard(file)
    assert {name for query in queries for name in metrics_in(query)} <= known_metrics()


def test_the_runbook_asks_for_series_that_exist() -> None:
    used = {name for query in queries_of_runbook(RUNBOOK) for name in metrics_in(query)}
    assert used <= known_metrics()


@pytest.mark.parametrize(("section", "command"), list(said_commands()))
def test_commands_of_the_runbook_exist(section: str, command: str) -> None:
    program, *words = shlex.split(re.split(r" [>|] ", command)[0])
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    found: Any = typer.main.get_command(app)
    context = found.make_context(program, words)  # reads the options, and calls nothing
    while hasattr(found, "resolve_command") and (words := [*context._protected_args, *context.args]):
        name, found, words = found.resolve_command(context, words)
        context = found.make_context(name, words, parent=context)
