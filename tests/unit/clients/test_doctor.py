from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sluice_cli.machine import GIB, disk_check, machine_checks, memory_check, package_checks
from sluice_cli.operations.checks import Check, Status
from sluice_cli.operations.doctor import check_view, collection_check, report_check, stage_checks
from sluice_client import (
    CollectionVersion,
    Config,
    Features,
    ModelInfo,
    Outcome,
    Stage,
    StageConfig,
    StageReport,
    VersionState,
)

_MODEL = ModelInfo("MiniLM", "f00d", 384, 256, "onnx", "fp32", "cpu", False)
_EMBED = StageConfig(Stage.EMBED, "127.0.0.1:50052", True, "", _MODEL)
_RETRIEVE = StageConfig(Stage.RETRIEVE, "127.0.0.1:50055", True, "", None)
_RERANK = StageConfig(Stage.RERANK, "127.0.0.1:50053", False, "UNAVAILABLE: nobody there", None)
_COLLECTION = CollectionVersion(
    collection="documents",
    version="documents@1",
    live=True,
    state=VersionState.READY,
    model=_MODEL,
    passage_count=7,
    fields={},
    lexical_settings="",
    source="",
    create_time=datetime(2026, 11, 28, tzinfo=UTC),
    building_version="",
    previous_version="",
)
_CONFIG = Config(Features(dense=True, expansion=False, rerank=False), [_EMBED, _RETRIEVE], _COLLECTION, "0.1.0")


def _statuses(*stages: StageConfig, features: Features = _CONFIG.default_features) -> list[Status]:
    return [check.status for check in stage_checks(replace(_CONFIG, stages=stages, default_features=features))]


def test_a_stage_that_is_down_fails_where_it_is_needed_and_warns_where_it_is_off() -> None:
    assert _statuses(_EMBED, _RETRIEVE, _RERANK) == [Status.OK, Status.OK, Status.WARN]
    assert _statuses(_RERANK, features=Features(rerank=True)) == [Status.FAIL]
    assert _statuses(replace(_RETRIEVE, serving=False)) == [Status.FAIL]


def test_pseudo_embeddings_are_worth_a_warning() -> None:
    (check,) = stage_checks(replace(_CONFIG, stages=[replace(_EMBED, model=replace(_MODEL, pseudo=True))]))
    assert (check.status, "EMBEDDING_MODEL" in check.remedy) == (Status.WARN, True)


def test_an_index_built_by_another_model_fails() -> None:
    assert collection_check(_CONFIG).status is Status.OK
    check = collection_check(
        replace(_CONFIG, collection=replace(_COLLECTION, model=replace(_MODEL, fingerprint="beef")))
    )
    assert check.status is Status.FAIL
    assert "beef" in check.finding
    assert "f00d" in check.finding


def test_a_collection_that_is_missing_empty_or_unknown_is_no_failure() -> None:
    for config in (
        replace(_CONFIG, collection=None),
        replace(_CONFIG, collection=replace(_COLLECTION, passage_count=0)),
        replace(_CONFIG, stages=[replace(_RETRIEVE, serving=False)]),
    ):
        check = collection_check(config)
        assert check.status is Status.WARN
        assert check.remedy


def test_a_collection_without_token_vectors_is_noticed_where_they_are_to_rerank() -> None:
    served = StageReport(
        Stage.RERANK, Outcome.DEGRADED, "NO_TOKEN_VECTORS", "the cross-encoder serves", timedelta(0), "", 4
    )
    check = report_check(served)
    assert check is not None
    assert (check.status, check.subject) == (Status.WARN, "token vectors")
    assert "reindex --late" in check.remedy
    assert report_check(replace(served, outcome=Outcome.RAN, reason="")) is None


def test_the_probing_question_tells_of_wordnet_and_of_failing_stages() -> None:
    def status(stage: Stage, outcome: Outcome) -> tuple[str, Status] | None:
        check = report_check(StageReport(stage, outcome, "REASON", "detail", timedelta(seconds=0.1), "", 1))
        return (check.subject, check.status) if check else None

    assert status(Stage.EXPAND, Outcome.RAN) == ("wordnet", Status.OK)
    assert status(Stage.EXPAND, Outcome.DEGRADED) == ("wordnet", Status.WARN)
    assert status(Stage.RERANK, Outcome.FAILED) == ("question: rerank", Status.FAIL)
    assert status(Stage.EMBED, Outcome.RAN) is None


def test_packages_are_checked_part_by_part() -> None:
    requirements = [
        "grpcio>=1.80",
        "torch==2.13.0; extra == 'torch'",
        "nltk>=3.9; extra == 'expander'",
        "qdrant-client[fastembed]>=1.16; extra == 'retriever'",
        "pytest; extra == 'dev'",
    ]
    installed = {"grpcio": "1.80.0", "torch": "2.13.0+cpu", "nltk": "3.8.1"}
    checks = {check.subject: check for check in package_checks("sluice-services", requirements, installed.get)}
    assert {subject: check.status for subject, check in checks.items()} == {
        "sluice-services": Status.OK,
        "sluice-services[torch]": Status.OK,
        "sluice-services[expander]": Status.WARN,
        "sluice-services[retriever]": Status.WARN,
    }
    assert checks["sluice-services[expander]"].finding == "nltk 3.8.1 (wanted: >=3.9)"
    assert "pip install -e .'[retriever]'" in checks["sluice-services[retriever]"].remedy


def test_what_everything_needs_must_be_there() -> None:
    (check,) = package_checks("sluice-retrieval", ["grpcio>=1.80"], lambda _: None)
    assert check.status is Status.FAIL
    assert "pip install --upgrade sluice-retrieval" in check.remedy


def test_memory_and_disk_warn_before_they_fail() -> None:
    assert [memory_check(size).status for size in (8 * GIB, GIB, GIB // 10, None)] == ["OK", "WARN", "FAIL", "OK"]
    assert [disk_check(Path(), size).status for size in (8 * GIB, GIB, GIB // 10)] == ["OK", "WARN", "FAIL"]


def test_this_machine_can_be_looked_at() -> None:
    assert {"python", "sluice-services", "memory", "disk"} <= {check.subject for check in machine_checks()}


def test_a_check_shows_its_remedy() -> None:
    shown = check_view(Check(Status.FAIL, "gateway", "nobody\x1b[31m there", "start it")).plain
    assert shown.startswith("FAIL gateway")
    assert "remedy: start it" in shown
    assert "\x1b" not in shown
