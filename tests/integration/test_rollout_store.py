"""The records of the control plane, the same on a SQLite file and on a real PostgreSQL; and who may write them."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
import trustme
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from google.protobuf.message import Message

from drills.parts.rpc import Rpc
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError, Unavailable
from services.chassis.server import serving
from services.experiment.flags import Overrides
from services.experiment.guardrails import Guardrail
from services.rollout.__main__ import compose
from services.rollout.evidence import Findings, GuardrailEvidence
from services.rollout.experiments.experiments import Cause, Experiment, ExperimentState, Judgment, Verdict
from services.rollout.experiments.findings import ArmGuardrail, ArmTotals, MetricFinding
from services.rollout.experiments.findings import Findings as ExperimentFindings
from services.rollout.experiments.plan import ExperimentArm, ExperimentPlan, Method
from services.rollout.experiments.records import AttachedEvidence, ExperimentRecords, LadderStep
from services.rollout.features import Feature, FeatureState, HistoryAction
from services.rollout.gateways import Gateway
from services.rollout.settings import RolloutSettings
from services.rollout.snapshots import Quarantined
from services.rollout.storage.database import Database, open_database
from services.rollout.storage.records import HistoryEntry, SealedSnapshot
from services.rollout.storage.tables import metadata
from sluice.rollout.v1 import experiment_pb2, feedback_pb2, rollout_pb2_grpc
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.type.v1 import features_pb2
from sluice_statistics.answers import Metric
from tests.postgres_server import PostgresServer
from tests.postgres_tls import TlsFront

FEATURE = Feature("rerank-v1", "faster?", "rerank-v1", Overrides(rerank=True, rerank_candidate_count=50))
ENTRY = HistoryEntry(1.5, "rerank-v1", HistoryAction.CREATED, "ada", "why not", 0, 0, FeatureState.READY, 1)
UrlOf = Callable[[], str]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'rollout.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url)
    assert database.lead()
    yield database
    database.close()


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def test_everything_that_is_written_is_read_again(database: Database) -> None:
    gateway = Gateway("g1", 7, 2.5, (Quarantined("x", "odd"),), ("y",))
    with database.writing() as records:
        records.add(FEATURE)
        run = records.begin_run(FEATURE, 10.0, 0.25)
        run.watched_seconds = 4.5
        records.save_run(run)
        number = records.add_history(ENTRY)
        records.publish(SealedSnapshot(1, "ab" * 32, 3.0, b"\x00body\xff"))
        records.remember("c1", "f" * 64, 4.0, {"name": "rerank-v1"})
        records.save_gateway(gateway)
        records.save_gateway(gateway)
    with database.reading() as records:
        assert records.features() == [FEATURE]
        assert records.run(run.number) == run
        assert records.runs() == [run] == records.runs("rerank-v1")
        (entry,) = records.history()
        assert (entry.number, entry.reason, entry.done_time) == (number, "why not", None)
        assert records.undone() == [entry]
        assert records.newest_snapshot() == SealedSnapshot(1, "ab" * 32, 3.0, b"\x00body\xff")
        assert records.remembered("c1") == ("f" * 64, {"name": "rerank-v1"})
        assert records.gateways() == [gateway]


def test_an_experiment_is_read_again_with_all_that_was_found_out(database: Database) -> None:
    arms = (ExperimentArm("dense", Overrides(lexical=False)), ExperimentArm("hybrid", Overrides(lexical=True)))
    plan = ExperimentPlan("hybrid", "words help", Method.AB, arms, 400_000, 0.02)
    running = Experiment("hybrid", plan, ExperimentState.RUNNING, 2, 100_000, 1.0, 2.0, None, Verdict.GO_ON, ("few",))
    row = GuardrailEvidence(Guardrail.ERRORS, 3, 1, 0.4, 5.7, -1.0, 5.7)
    findings = ExperimentFindings(
        3.0,
        (ArmTotals("dense", 7, 9, 2, 1, 0, 0.1, None),),
        (MetricFinding(Metric.RECIPROCAL_RANK, "hybrid", 0.5, 0.6, 0.1, -0.1, 0.3, 7, 0.2),),
        (ArmGuardrail("hybrid", row),),
        0.1,
        6.9,
        Judgment(Verdict.STOP, ("broken",), "hybrid", Cause.GUARDRAIL),
    )
    evidence = AttachedEvidence(LadderStep.OFFLINE, 1.0, "nDCG +3 %", "{}")
    with database.writing() as records:
        ours = ExperimentRecords(records.connection)
        ours.add(Experiment("hybrid", plan))
        ours.save(running)
        ours.add_point(running, findings, replacing=False)
        ours.add_point(running, replace(findings, time=4.0), replacing=False)
        ours.add_point(running, replace(findings, time=5.0), replacing=True)
        ours.attach("hybrid", evidence)
        ours.attach("hybrid", evidence)
    with database.reading() as records:
        ours = ExperimentRecords(records.connection)
        assert ours.experiments() == ours.running() == [running]
        assert (ours.count(), ours.knows("hybrid"), ours.knows("other")) == (1, True, False)
        assert ours.points(running) == [findings, replace(findings, time=5.0)]
        assert ours.newest_findings(running) == replace(findings, time=5.0)
        assert ours.newest_times(running, 2) == [5.0, 3.0]
        assert ours.attached("hybrid") == [evidence]


def test_units_count_once_and_go_with_their_run(database: Database) -> None:
    units = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, *range(10, 12_000)]
    with database.writing() as records:
        records.add(FEATURE)
        run = records.begin_run(FEATURE, 10.0, None)
        assert sorted(records.add_units(run.number, units)) == sorted(units)
        assert records.add_units(run.number, [*units, 5]) == [5]
        assert records.add_bad_units(run.number, Guardrail.ERRORS, [7, 7, 8]) == [7, 8]
        assert records.add_bad_units(run.number, Guardrail.LATENCY, [7]) == [7]
        assert records.add_bad_units(run.number, Guardrail.ERRORS, [8]) == []
        assert records.purge_units(100) == 0
        run.end_time = 11.0
        records.save_run(run)
        assert records.purge_units(10_000) == 10_003
        assert records.purge_units(10_000) == len(units) + 1 - 10_000
        assert records.purge_units(10_000) == 0


def test_what_fails_halfway_leaves_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as records:
        records.add(FEATURE)
        records.add_history(ENTRY)
        raise ZeroDivisionError
    with database.reading() as records:
        assert (records.features(), records.history()) == ([], [])


@pytest.mark.parametrize("statement", ["UPDATE history SET reason = 'better'", "DELETE FROM history"])
def test_the_database_itself_lets_nobody_change_the_history(database: Database, url: str, statement: str) -> None:
    with database.writing() as records:
        number = records.add_history(ENTRY)
        records.done(number, 2.0)
    engine = engine_of(url)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
    with database.reading() as records:
        assert [entry.done_time for entry in records.history()] == [2.0]


def test_a_damaged_row_is_left_out_alone(url: str, database: Database) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("PostgreSQL checks JSON itself")
    with database.writing() as records:
        records.add(FEATURE)
        good, bad = records.begin_run(FEATURE, 10.0, 0.25), records.begin_run(FEATURE, 11.0, 0.25)
        for run in (good, bad):
            records.add_point(run.number, 12.0, Findings())
        records.save_gateway(Gateway("good", 7, 2.5))
        records.save_gateway(Gateway("bad", 7, 2.5))
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE gateway SET quarantined = 'x' WHERE name = 'bad'"))
        connection.execute(sa.text(f"UPDATE run SET arms = '[1' WHERE number = {bad.number}"))
        connection.execute(sa.text(f"UPDATE point SET findings = '7' WHERE run = {bad.number}"))
    engine.dispose()
    with database.reading() as records:
        assert [gateway.name for gateway in records.gateways()] == ["good"]
        assert [run.number for run in records.runs()] == [good.number]
        assert records.run(bad.number) is None
        assert [point.run for point in records.points(FEATURE.name)] == [good.number]


def test_the_newest_entries_of_the_history_are_read_oldest_first(database: Database) -> None:
    with database.writing() as records:
        numbers = [records.add_history(ENTRY) for _ in range(5)]
    with database.reading() as records:
        assert [entry.number for entry in records.newest_history("rerank-v1", 3)] == numbers[-3:]
        assert records.newest_history("another", 3) == []


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database, url: str) -> None:
    engine = engine_of(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_database_of_a_newer_release_is_left_alone(database: Database, url: str) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    database.close()
    again = open_database(url)
    with pytest.raises(StartupError, match="newer release"):
        again.lead()
    again.close()


def test_one_process_leads_and_the_next_one_when_it_is_gone(url: str) -> None:
    first, second = open_database(url), open_database(url)
    assert first.lead()
    assert not second.lead()
    with first.writing() as records:
        records.add(FEATURE)
    with second.reading() as records:
        assert records.features() == [FEATURE]
    first.close()
    while not second.lead():  # the server takes a moment to notice
        time.sleep(0.05)
    with second.writing() as records:
        assert records.features() == [FEATURE]
    second.close()


def test_a_leader_whose_session_was_cut_writes_no_more(postgres: PostgresServer) -> None:
    url = postgres.database()
    first, second = open_database(url), open_database(url)
    assert first.lead()
    name = url.rpartition("/")[2]
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    while not second.lead():
        time.sleep(0.05)
    with second.writing() as records:
        records.add(FEATURE)
    with pytest.raises(Unavailable), first.writing() as records:
        records.save(FEATURE)
    with pytest.raises(Unavailable), first.writing() as records:
        records.save(FEATURE)
    assert not first.lead()
    first.close()
    second.close()


@pytest.mark.parametrize("wrong", ["", "rollout.db", "sqlite://", "mysql://localhost/x", "sqlite:////proc/none/x.db"])
def test_a_database_that_cannot_be_is_a_clear_start_up_error(wrong: str) -> None:
    with pytest.raises(StartupError, match="ROLLOUT_DATABASE_URL"):
        open_database(wrong)


def test_a_file_that_is_no_database_is_a_clear_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "rollout.db").write_text("not a database, whatever its name says" * 100)
    database = open_database(f"sqlite:///{tmp_path / 'rollout.db'}")
    with pytest.raises(StartupError, match="cannot be opened"):
        database.lead()
    database.close()


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[StageChannel]:
    settings: Any = RolloutSettings(
        grpc_port=0, metrics_port=0, drain_seconds=0, shutdown_grace_seconds=1, rollout_database_url=url
    )
    async with (
        compose(settings) as stage,
        serving(stage, settings) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


async def test_a_standby_reads_refuses_the_rest_and_takes_over(url: str) -> None:
    create = pb.CreateFeatureRequest(
        command=pb.Command(actor="ada", reason="try", command_id="c1"),
        name="rerank-v1",
        features=features_pb2.Features(rerank=True),
    )
    first = replica(url)
    active = await first.__aenter__()
    async with replica(url) as standby:
        stub = rollout_pb2_grpc.RolloutServiceStub(standby.channel)
        made = await active.call(
            rollout_pb2_grpc.RolloutServiceStub(active.channel).CreateFeature, create, deadline=soon()
        )
        listed = await standby.call(stub.ListFeatures, pb.ListFeaturesRequest(), deadline=soon())
        assert list(listed.features) == [made.feature]
        assert await standby.health("sluice.rollout.v1.SnapshotService", deadline=soon()) == "NOT_SERVING"
        with pytest.raises(Unavailable, match="another one is active") as refused:
            await standby.call(stub.CreateFeature, create, deadline=soon())
        assert refused.value.reason == "STANDBY"
        await first.__aexit__(None, None, None)
        async with asyncio.timeout(20):
            while await standby.health("", deadline=soon()) is not None:
                await asyncio.sleep(0.05)
        assert await standby.call(stub.CreateFeature, create, deadline=soon()) == made


@pytest.mark.parametrize(
    "asked",
    [
        pb.GetFeatureRequest(name="a\0"),
        pb.ListHistoryRequest(name="a\0"),
        pb.KillFeatureRequest(command=pb.Command(actor="ada", reason="to see"), name="a\0"),
        experiment_pb2.GetExperimentRequest(name="a\0"),
        feedback_pb2.ExportFeedbackRequest(collection="a\0"),
    ],
    ids=lambda asked: type(asked).__name__,
)
async def test_a_text_with_a_null_is_never_a_fault_of_ours(url: str, asked: Message) -> None:
    async with replica(url) as channel:
        try:
            await Rpc(asked, lambda _asked, _said: True).call(channel.channel, asked.SerializeToString())
        except grpc.aio.AioRpcError as error:
            assert error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


def soon() -> float:
    return time.monotonic() + 20


def test_with_an_authority_postgresql_is_called_by_tls_alone(postgres: PostgresServer, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ours, other = tmp_path / "ours.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(ours)
    trustme.CA().cert_pem.write_to_path(other)
    plain = postgres.database()
    with TlsFront(context, postgres.port) as front:
        url = f"{plain.replace(str(postgres.port), str(front.port))}?sslmode=disable"
        trusting = open_database(url, ours)
        assert trusting.lead()
        assert front.encrypted >= 1
        trusting.close()
        for refused in (
            open_database(url, other),
            open_database(url.replace("127.0.0.1", "localhost"), ours),  # the certificate is for another name
            open_database(plain, ours),  # the server has no TLS
        ):
            with pytest.raises(Unavailable):
                refused.lead()
            refused.close()
    with pytest.raises(StartupError, match="ROLLOUT_DATABASE_CA_FILE"):
        open_database(url, tmp_path / "missing.pem")
