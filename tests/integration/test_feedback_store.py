"""Feedback in the control plane's database, the same on a SQLite file and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.chassis.client import StageChannel
from services.chassis.errors import Internal, ResourceExhausted, Unavailable
from services.chassis.server import serving
from services.chassis.timing import duration, in_background, timestamp
from services.rollout.__main__ import compose
from services.rollout.feedback import writing
from services.rollout.feedback.batches import Batch
from services.rollout.feedback.rows import Ending, UserRating, date_of, day_of, microseconds
from services.rollout.feedback.writing import FeedbackWriter
from services.rollout.settings import RolloutSettings
from services.rollout.storage import database as database_module
from services.rollout.storage.database import Database, open_database
from services.rollout.storage.tables import metadata
from sluice.rollout.v1 import feedback_pb2 as pb
from sluice.rollout.v1 import feedback_pb2_grpc
from sluice.type.v1 import feedback_pb2
from sluice.type.v1.impression_pb2 import Exposure, Impression
from sluice_statistics.answers import AnswerEvent
from tests.postgres_server import PostgresServer

NOW = 1_795_800_000.25
DAY = 86_400.0
KEPT_DAYS = 30


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'rollout.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url)
    assert database.lead()
    yield database
    database.close()


def served(
    query_id: str, moment: float = NOW, *, measured: bool = True, run: str = "exp.1", **fields: Any
) -> pb.ServedImpression:
    exposures = fields.pop("exposures", [Exposure(experiment="exp", run_id=run, arm="a")])
    impression = Impression(
        query_id=query_id,
        time=timestamp(moment),
        collection="papers",
        unit=fields.pop("unit", 2**64 - 1),
        object_ids=["p1", "p2", "p3"],
        first_position=fields.pop("first_position", 1),
        exposures=exposures,
        tenant=fields.pop("tenant", ""),
    )
    if not measured:
        return pb.ServedImpression(impression=impression)
    return pb.ServedImpression(
        impression=impression,
        ending=fields.pop("ending", pb.IMPRESSION_ENDING_ANSWERED),
        duration=duration(0.25),
        query="hmac:abc",
        model_token_count=7,
        arm_durations=[Duration(nanos=250_000_000), Duration(nanos=500_000_000)],
        missing_arm="hybrid",
    )


def click(event_id: str, answer: pb.ServedImpression, place: int = 0, **fields: Any) -> feedback_pb2.Event:
    impression = answer.impression
    return feedback_pb2.Event(
        event_id=event_id,
        query_id=impression.query_id,
        action=fields.pop("action", feedback_pb2.EVENT_ACTION_CLICK),
        time=timestamp(fields.pop("moment", NOW + 5)),
        object_id=impression.object_ids[place],
        position=impression.first_position + place,
        client_id="c",
        session_id="s",
        **fields,
    )


def request(answers: Sequence[pb.ServedImpression], *events: tuple[feedback_pb2.Event, int]) -> pb.StoreFeedbackRequest:
    stored = [pb.StoredEvent(event=event, impression_index=index) for event, index in events]
    return pb.StoreFeedbackRequest(impressions=answers, events=stored)


def batch(message: pb.StoreFeedbackRequest) -> Batch:
    return Batch.from_proto(message, NOW + 10, KEPT_DAYS)


def store(database: Database, *messages: pb.StoreFeedbackRequest) -> list[list[int]]:
    batches = [batch(message) for message in messages]
    found = []
    for one in batches:
        with database.storing_feedback() as records:
            records.prepare({day_of(row.served_time) for row in one.impressions})
            found.append(records.store(one.impressions, one.exposures, one.events))
    return found


def rows_of(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables of feedback."""
    with database.reading_feedback() as records:
        return {"answers": list(records.answers_between()), "run": list(records.answers_of_run("exp.1"))}


def test_an_event_counts_once_and_its_repetitions_are_named(database: Database) -> None:
    answer = served("q1")
    first = request([answer], (click("e1", answer), 0), (click("e2", answer, 1), 0), (click("e1", answer), 0))
    again = request([answer], (click("e3", answer, 2), 0), (click("e2", answer, 1), 0))
    assert store(database, first, again, first) == [[2], [1], [0, 1, 2]]
    with database.reading_feedback() as records:
        (row,) = records.answers_of_run("exp.1")
    assert (row.unit, row.arm, row.ending, row.seconds, row.tokens) == (2**64 - 1, "a", Ending.ANSWERED, 0.25, 7)
    assert row.time == NOW
    assert row.events == (
        AnswerEvent("click", "p1", 1, None),
        AnswerEvent("click", "p2", 2, None),
        AnswerEvent("click", "p3", 3, None),
    )


def test_the_measured_answer_completes_the_one_that_an_event_brought(database: Database) -> None:
    known, measured = served("q1", measured=False), served("q1")
    store(database, request([known], (click("e1", known), 0)))
    with database.reading_feedback() as records:
        # It would count those who click more than others.
        assert list(records.answers_of_run("exp.1")) == []
        (kept,) = records.answers_between()
    assert (kept.impression.ending, kept.impression.seconds) == (Ending.UNKNOWN, None)
    store(database, request([measured]), request([known]))
    with database.reading_feedback() as records:
        (row,) = records.answers_of_run("exp.1")
    assert (row.ending, row.seconds, len(row.events)) == (Ending.ANSWERED, 0.25, 1)


def test_answers_with_one_query_id_are_told_apart_by_their_time(database: Database) -> None:
    page, next_page = served("q1", unit=1), served("q1", NOW + 1, unit=1, first_position=4)
    store(database, request([page, next_page], (click("e1", next_page, 1), 1)))
    with database.reading_feedback() as records:
        first, second = records.answers_of_run("exp.1")
    assert first.events == ()
    assert second.first_position == 4
    assert second.events == (AnswerEvent("click", "p2", 5, None),)


def test_tenants_have_event_ids_of_their_own(database: Database) -> None:
    ours, theirs = served("q1", tenant="ours"), served("q2", tenant="theirs")
    message = request([ours, theirs], (click("1", ours), 0), (click("1", theirs), 1))
    assert store(database, message, message) == [[], [0, 1]]


def test_what_fails_halfway_leaves_nothing(database: Database) -> None:
    one = batch(request([served("q1")], (click("e1", served("q1")), 0)))
    broken = one.events[0]._replace(event_id=None)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"(?i)null"), database.storing_feedback() as records:
        records.prepare({one.events[0].day})
        records.store(one.impressions, one.exposures, [broken])
    assert rows_of(database) == {"answers": [], "run": []}
    assert store(database, request([served("q1")], (click("e1", served("q1")), 0))) == [[]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One database for many examples."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('shared') / 'rollout.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.database()
    database = open_database(url)
    assert database.lead()
    yield database
    database.close()


def parts() -> list[pb.StoreFeedbackRequest]:
    """Answers as gateways report them, and events, each with its answer as a token tells of it."""
    found = []
    for number in range(5):
        run, moment = f"exp.{1 + number % 2}", NOW - number * DAY / 2
        answer, known = served(f"q{number}", moment, run=run), served(f"q{number}", moment, run=run, measured=False)
        found.append(request([answer]))
        found += [request([known], (click(f"e{number}-{place}", known, place), 0)) for place in range(2)]
    return found


def together(messages: Sequence[pb.StoreFeedbackRequest]) -> pb.StoreFeedbackRequest:
    """One request with all that is in several."""
    whole = pb.StoreFeedbackRequest()
    for message in messages:
        for stored in message.events:
            index = stored.impression_index + len(whole.impressions)
            whole.events.add(event=stored.event, impression_index=index)
        whole.impressions.extend(message.impressions)
    return whole


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_split_and_repetition_of_batches_gives_the_same_rows(shared: Database, data: st.DataObject) -> None:
    all_parts = parts()
    repeated = data.draw(st.lists(st.sampled_from(range(len(all_parts))), max_size=10))
    order = data.draw(st.permutations([*range(len(all_parts)), *repeated]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(order) - 1))))
    groups = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    forget_everything(shared)
    duplicates = store(shared, *(together([all_parts[place] for place in group]) for group in groups))
    seen = rows_of(shared)
    repeated_events = sum(len(all_parts[place].events) for place in repeated)
    assert sum(map(len, duplicates)) == repeated_events
    forget_everything(shared)
    store(shared, together(all_parts))
    assert seen == rows_of(shared)
    assert [len(answer.events) for answer in seen["answers"]] == [2] * 5
    assert [len(answer.events) for answer in seen["run"]] == [2] * 3


def forget_everything(database: Database) -> None:
    with database.storing_feedback() as records:
        while not records.forget_before(day_of(microseconds(NOW)) + 2, 100):
            pass


def test_whole_days_are_forgotten_and_their_room_is_made_again(database: Database) -> None:
    days = range(5)
    answers = [served(f"q{day}", NOW - day * DAY, run=f"exp.{day % 2}") for day in days]
    events = [(click(f"e{day}", answers[day]), day) for day in days]
    store(database, request(answers, *events))
    with database.storing_feedback() as records:
        while not records.forget_before(day_of(microseconds(NOW)) - 1, 2):
            pass
    with database.reading_feedback() as records:
        kept = list(records.answers_between())
        assert [answer.impression.query_id for answer in kept] == ["q1", "q0"]
        assert [len(answer.events) for answer in kept] == [1, 1]
        assert len(list(records.answers_of_run("exp.0"))) == len(list(records.answers_of_run("exp.1"))) == 1
    assert store(database, request(answers, *events)) == [[0, 1]]
    with database.reading_feedback() as records:
        assert len(list(records.answers_between())) == len(days)


def test_postgresql_keeps_each_day_in_partitions_of_its_own(postgres: PostgresServer) -> None:
    url = postgres.database()
    database = open_database(url)
    assert database.lead()
    store(database, request([served("q1"), served("q2", NOW - DAY)]))
    with database.storing_feedback() as records:
        assert records.forget_before(day_of(microseconds(NOW)), 1)
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    partitions = set(sa.inspect(engine).get_table_names()) - set(metadata.tables) - {"alembic_version"}
    engine.dispose()
    database.close()
    day = date_of(day_of(microseconds(NOW)))
    assert partitions == {f"impression_{day}", f"exposure_{day}", f"event_{day}"}


def test_a_long_run_is_read_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.rollout.feedback.storage.PAGE", 7)
    answers = [served(f"q{number:03}", NOW - (number % 3) * DAY, run=f"exp.{number % 2}") for number in range(60)]
    events = [(click(f"e{number}", answers[number]), number) for number in range(0, 60, 3)]
    store(database, request(answers, *events))
    with database.reading_feedback() as records:
        rows = list(records.answers_of_run("exp.1"))
        whole = list(records.answers_between())
        time_of = list(records.answers_of_time(NOW - DAY, NOW))
    assert len(rows) == 30
    assert sum(len(row.events) for row in rows) == 10
    assert [row.time for row in rows] == sorted(row.time for row in rows)
    keys = [(answer.impression.served_time, answer.impression.query_id) for answer in whole]
    assert keys == sorted(keys)
    assert len(keys) == 60
    assert sum(len(answer.events) for answer in whole) == 20
    assert {row.time for row in time_of} == {NOW - DAY}


def test_ratings_of_a_ramp_are_means_of_users(database: Database) -> None:
    def rating(event_id: str, answer: pb.ServedImpression, rating: float) -> feedback_pb2.Event:
        return click(event_id, answer, action=feedback_pb2.EVENT_ACTION_RATE, rating=rating, aspect="relevance")

    exposed: dict[str, Any] = {"exposures": [Exposure(experiment="rerank", run_id="rerank.3", arm="treatment")]}
    one = served("q1", measured=False, unit=5, **exposed)
    other = served("q2", measured=False, unit=6, **exposed)
    store(
        database,
        request(
            [one, other],
            (rating("e1", one, 1.0), 0),
            (rating("e2", one, 0.5), 0),
            (rating("e3", other, 0.0), 1),
            (click("e4", other), 1),
        ),
    )
    with database.reading_feedback() as records:
        assert sorted(records.ratings_of_run("rerank.3")) == [
            UserRating("treatment", 5, 0.75, 2),
            UserRating("treatment", 6, 0.0, 1),
        ]
        assert records.ratings_of_run("rerank.4") == []


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.sizes: list[int] = []

    def stored(self, batches: Sequence[Batch], duplicate_count: int, seconds: float) -> None:
        self.groups.append(len(batches))

    def waiting(self, size: int) -> None:
        self.sizes.append(size)


async def test_requests_that_come_together_share_transactions_and_each_hears_of_its_own(database: Database) -> None:
    told = Told()
    writer = FeedbackWriter(database, told, kept_days=KEPT_DAYS)
    answers = [served(f"q{number}") for number in range(20)]
    batches = [batch(request([answer], (click("e", answer), 0))) for answer in answers]
    found = await asyncio.gather(*(writer.store(one) for one in batches))
    await writer.close()
    # All of the events have one id: the first one counts.
    assert sorted(found) == [[], *([0] for _ in range(19))]
    assert len(told.groups) < len(batches)
    assert sum(told.groups) == len(batches)
    assert told.sizes[-1] == 0


async def test_a_request_that_cannot_be_stored_takes_no_other_with_it(database: Database) -> None:
    writer = FeedbackWriter(database, Told(), kept_days=KEPT_DAYS)
    good, bad = (batch(request([served(name)], (click(name, served(name)), 0))) for name in ("good", "bad"))
    bad = replace(bad, events=[bad.events[0]._replace(client=None)])  # type: ignore[arg-type]
    found = await asyncio.gather(*map(writer.store, (good, bad, good)), return_exceptions=True)
    await writer.close()
    assert found[0] == []
    assert isinstance(found[1], Internal)
    assert found[2] == [0]


async def test_more_than_may_wait_is_refused_with_a_time_to_come_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = batch(request([served("q1")]))
    monkeypatch.setattr(writing, "MAX_WAITING_BYTES", 2 * one.size)
    writer = FeedbackWriter(database, Told(), kept_days=KEPT_DAYS)
    found = await asyncio.gather(*(writer.store(one) for _ in range(3)), return_exceptions=True)
    assert found[:2] == [[], []]
    assert isinstance(found[2], ResourceExhausted)
    assert found[2].retry_after is not None
    assert await writer.store(one) == []
    await writer.close()


async def test_a_caller_that_leaves_takes_nobody_with_it(database: Database) -> None:
    writer = FeedbackWriter(database, Told(), kept_days=KEPT_DAYS)
    one = batch(request([served("q1")]))
    leaving, staying = asyncio.create_task(writer.store(one)), asyncio.create_task(writer.store(one))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == []
    await writer.close()


async def test_days_are_made_ahead_and_old_ones_are_forgotten(postgres: PostgresServer) -> None:
    url = postgres.database()
    database = open_database(url)
    assert database.lead()
    store(database, request([served("q1"), served("q2", NOW - 3 * DAY)]))
    writer = FeedbackWriter(database, Told(), kept_days=2, clock=lambda: NOW)
    today = day_of(microseconds(NOW))
    wanted = {f"event_{date_of(day)}" for day in range(today, today + 3)}
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    async with in_background(writer.keep(lambda: True)), asyncio.timeout(20):
        while {name for name in sa.inspect(engine).get_table_names() if name.startswith("event_")} != wanted:
            await asyncio.sleep(0.05)
    engine.dispose()
    await writer.close()
    database.close()


def test_a_database_of_the_release_before_gets_the_tables(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    config = Config()
    config.set_main_option("script_location", str(Path(database_module.__file__).with_name("migrations")))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        alembic.upgrade(config, "0001")
        connection.commit()
        assert "impression" not in sa.inspect(connection).get_table_names()
    engine.dispose()
    database = open_database(url)
    assert database.lead()
    assert store(database, request([served("q1")], (click("e1", served("q1")), 0))) == [[]]
    database.close()


@asynccontextmanager
async def service(url: str) -> AsyncIterator[StageChannel]:
    settings: Any = RolloutSettings(
        grpc_port=0, metrics_port=0, drain_seconds=0, shutdown_grace_seconds=1, rollout_database_url=url
    )
    async with (
        compose(settings) as stage,
        serving(stage, settings) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


def soon() -> float:
    return time.monotonic() + 20


async def exported(channel: StageChannel, **fields: Any) -> list[pb.AnswerFeedback]:
    stub = feedback_pb2_grpc.FeedbackStoreServiceStub(channel.channel)
    replies = channel.stream(stub.ExportFeedback, pb.ExportFeedbackRequest(**fields), deadline=soon())
    return [answer async for reply in replies for answer in reply.answers]


async def test_what_is_stored_is_exported_as_it_was_sent(url: str) -> None:
    now = round(time.time())
    answer, other = served("q1", now - 5), served("q2", now - 4, exposures=[Exposure(experiment="x", run_id="x.1")])
    message = request([other, answer], (click("e2", answer, 1, moment=now), 1), (click("e1", answer, moment=now), 1))
    async with service(url) as channel:
        stub = feedback_pb2_grpc.FeedbackStoreServiceStub(channel.channel)
        assert list((await channel.call(stub.StoreFeedback, message, deadline=soon())).duplicate_indexes) == []
        again = await channel.call(stub.StoreFeedback, message, deadline=soon())
        assert list(again.duplicate_indexes) == [0, 1]
        events = [message.events[1].event, message.events[0].event]
        whole = [pb.AnswerFeedback(served=answer, events=events), pb.AnswerFeedback(served=other)]
        assert await exported(channel) == whole
        assert await exported(channel, experiment="x") == whole[1:]
        assert await exported(channel, collection="another") == []
        assert await exported(channel, start_time=timestamp(now - 4)) == whole[1:]
        assert await exported(channel, end_time=timestamp(now - 4)) == whole[:1]


async def test_a_standby_stores_nothing(url: str) -> None:
    async with service(url) as active, service(url) as standby:
        message = request([served("q1", time.time())])
        stub = feedback_pb2_grpc.FeedbackStoreServiceStub(standby.channel)
        with pytest.raises(Unavailable, match="another one is active") as refused:
            await standby.call(stub.StoreFeedback, message, deadline=soon())
        assert refused.value.reason == "STANDBY"
        assert await exported(active) == await exported(standby) == []


async def test_a_database_that_is_away_is_told_and_nothing_is_lost_when_it_is_back(postgres: PostgresServer) -> None:
    async with service(postgres.database()) as channel:
        stub = feedback_pb2_grpc.FeedbackStoreServiceStub(channel.channel)
        first, second = (request([served(name, time.time())]) for name in ("q1", "q2"))
        await channel.call(stub.StoreFeedback, first, deadline=soon())
        postgres.stop()
        try:
            with pytest.raises(Unavailable):
                await channel.call(stub.StoreFeedback, second, deadline=soon())
        finally:
            postgres.start()
        async with asyncio.timeout(60):
            while True:
                try:
                    await channel.call(stub.StoreFeedback, second, deadline=soon())
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)
        assert {answer.served.impression.query_id for answer in await exported(channel)} == {"q1", "q2"}
