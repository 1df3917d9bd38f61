"""Experiments and feedback through the gateway and the rollout service, on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.gateway.feedback.impressions import Impressions
from sluice.gateway.v1 import answer_pb2, documents_pb2, feedback_pb2, feedback_pb2_grpc, search_pb2
from sluice.rollout.v1 import experiment_pb2, experiment_pb2_grpc, rollout_pb2
from sluice.rollout.v1 import feedback_pb2 as stored_pb
from sluice.rollout.v1 import feedback_pb2_grpc as stored_pb_grpc
from sluice.type.v1 import experiment_pb2 as type_pb
from sluice.type.v1 import features_pb2
from sluice.type.v1 import feedback_pb2 as event_pb
from tests.contract.access import Doors, bearer, key_of, row
from tests.contract.conftest import Platform, start
from tests.stubs import GatewayStubs

KEYS = "a key of this test that all of its gateways have"
DOCUMENTS = [
    documents_pb2.Document(id=f"d{number}", title=f"pool {number}", text="threads wait") for number in range(8)
]
USERS = [f"user-{number}" for number in range(40)]
CLICK = event_pb.EVENT_ACTION_CLICK
ONLY_WORDS = features_pb2.Features(dense=False)


@dataclass(frozen=True)
class World:
    """A gateway and a rollout service."""

    platform: Platform

    async def search(self, user: str, **fields: Any) -> search_pb2.SearchResponse:
        request = search_pb2.SearchRequest(query="pool", user_id=user, **fields)
        answer: search_pb2.SearchResponse = await GatewayStubs(self.platform["gateway"].channel).search.Search(
            request, timeout=20
        )
        return answer

    async def record(
        self, *events: event_pb.Event, tokens: list[bytes], **how: Any
    ) -> feedback_pb2.RecordEventsResponse:
        stub = feedback_pb2_grpc.FeedbackServiceStub(self.platform["gateway"].channel)
        request = feedback_pb2.RecordEventsRequest(impression_tokens=tokens, events=events)
        reply: feedback_pb2.RecordEventsResponse = await stub.RecordEvents(request, timeout=20, **how)
        return reply

    async def exported(self, **how: Any) -> list[stored_pb.AnswerFeedback]:
        """All that is stored and that the caller may read."""
        stub = stored_pb_grpc.FeedbackStoreServiceStub(self.platform["rollout"].channel)
        replies = stub.ExportFeedback(stored_pb.ExportFeedbackRequest(), timeout=20, **how)
        return [answer async for reply in replies for answer in reply.answers]

    async def stored(self, count: int = 0) -> list[stored_pb.AnswerFeedback]:
        """All that is stored, when there are at least so many answers."""
        deadline = time.monotonic() + 20
        while True:
            found = await self.exported()
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} answers are stored, not {count}"
            await asyncio.sleep(0.02)

    async def begin(
        self,
        method: type_pb.ExperimentMethod.ValueType,
        second: features_pb2.Features = ONLY_WORDS,
    ) -> None:
        """Start an experiment with all users, and wait until the gateway has it."""
        stub = experiment_pb2_grpc.ExperimentServiceStub(self.platform["rollout"].channel)
        plan = experiment_pb2.ExperimentPlan(
            name="ranking",
            hypothesis="words alone are enough",
            method=method,
            arms=[type_pb.ExperimentArm(name="hybrid"), type_pb.ExperimentArm(name="words", features=second)],
            share_ppm=1_000_000,
            minimum_effect=0.02,
        )
        command = rollout_pb2.Command(actor="a test", reason="to see")
        await stub.CreateExperiment(experiment_pb2.CreateExperimentRequest(command=command, plan=plan), timeout=20)
        await stub.StartExperiment(experiment_pb2.StartExperimentRequest(command=command, name="ranking"), timeout=20)
        deadline = time.monotonic() + 20
        while not (await self.search("user-0")).experiments:
            assert time.monotonic() < deadline, "the experiment never reached the gateway"
            await asyncio.sleep(0.02)


def click(answer: search_pb2.SearchResponse, place: int = 0, **fields: Any) -> event_pb.Event:
    result = answer.results[place]
    usual: dict[str, Any] = {
        "event_id": f"{answer.request_id}/{place}",
        "query_id": answer.request_id,
        "action": CLICK,
        "object_id": result.passage.id,
        "position": result.rank,
    }
    return event_pb.Event(**usual | fields)


async def started(stack: AsyncExitStack, tmp_path: Path, **gateway: Any) -> World:
    given = {"feedback_keys": KEYS, "rollout_snapshot_path": tmp_path / "snapshot.json"} | gateway
    platform = await start(
        stack,
        {"embedder", "expander", "retriever", "rollout", "gateway"},
        retriever={"qdrant_path": tmp_path / "qdrant"},
        expander={"wordnet_dir": Path("/there/is/no/wordnet")},
        rollout={"rollout_database_url": f"sqlite:///{tmp_path / 'rollout.db'}"},
        gateway=given,
    )
    await GatewayStubs(platform["gateway"].channel).documents.IndexDocuments(
        documents_pb2.IndexDocumentsRequest(documents=DOCUMENTS), timeout=20
    )
    return World(platform)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await started(stack, tmp_path)


async def test_what_was_done_with_an_answer_is_stored_once_with_it(world: World) -> None:
    answer = await world.search("ada", limit=3)
    both = [click(answer, 0, client_id="phone"), click(answer, 2)]
    first = await world.record(*both, tokens=[answer.impression_token])
    assert (first.stored_count, first.duplicate_count, len(first.rejections)) == (2, 0, 0)
    again = await world.record(*both, click(answer, 1), tokens=[answer.impression_token])
    assert (again.stored_count, again.duplicate_count, len(again.rejections)) == (1, 2, 0)
    (stored,) = await world.stored(1)
    served = stored.served.impression
    assert (served.query_id, served.collection) == (answer.request_id, "documents")
    assert list(served.object_ids) == [result.passage.id for result in answer.results]
    assert sorted(event.position for event in stored.events) == [1, 2, 3]
    hashes = Impressions([KEYS])
    assert served.unit == hashes.unit("ada")
    assert {event.client_id for event in stored.events} == {"", hashes.hashed("phone")}


async def test_events_that_are_made_up_are_rejected_one_by_one_and_not_stored(world: World) -> None:
    answer, other = await world.search("ada"), await world.search("grace")
    forged = bytearray(other.impression_token)
    forged[5] ^= 1
    reply = await world.record(
        click(answer, 0, event_id="moved", position=2),
        click(answer, 0, event_id="other", object_id="nobody"),
        click(other, 0, event_id="forged"),
        click(answer, 0, event_id="empty", action=event_pb.EVENT_ACTION_RATE),
        click(answer, 1),
        tokens=[answer.impression_token, bytes(forged)],
    )
    assert reply.stored_count == 1
    reasons = {
        rejection.index: feedback_pb2.EventRejectionReason.Name(rejection.reason).removeprefix(
            "EVENT_REJECTION_REASON_"
        )
        for rejection in reply.rejections
    }
    assert reasons == {0: "OTHER_RESULT", 1: "OTHER_RESULT", 2: "NOT_SERVED", 3: "INVALID"}
    (stored,) = await world.stored(1)
    assert [event.event_id for event in stored.events] == [f"{answer.request_id}/1"]


async def test_every_answer_of_an_experiment_is_reported_with_its_arm_whether_or_not_anybody_acts_on_it(
    world: World,
) -> None:
    await world.begin(type_pb.EXPERIMENT_METHOD_AB)
    arms = {}
    for user in USERS:
        answer = await world.search(user)
        (part,) = answer.experiments
        assert answer.features.dense is (part.arm == "hybrid")
        arms[answer.request_id] = part.arm
    assert set(arms.values()) == {"hybrid", "words"}
    deadline = time.monotonic() + 20
    while True:
        stored = {one.served.impression.query_id: one.served for one in await world.stored()}
        if arms.keys() <= stored.keys():
            break
        assert time.monotonic() < deadline, "not every answer was reported"
        await asyncio.sleep(0.02)
    for query_id, arm in arms.items():
        served = stored[query_id]
        assert [part.arm for part in served.impression.exposures] == [arm]
        assert served.ending == stored_pb.IMPRESSION_ENDING_ANSWERED
        assert served.duration.ToTimedelta().total_seconds() > 0


async def test_a_click_on_a_later_page_counts_for_the_arm_of_the_first(world: World) -> None:
    await world.begin(type_pb.EXPERIMENT_METHOD_AB)
    first = await world.search("ada", limit=3)
    later = await world.search("ada", limit=3, page_token=first.next_page_token)
    assert later.experiments == first.experiments
    assert later.features == first.features
    reply = await world.record(click(later, 1), tokens=[first.impression_token, later.impression_token])
    assert reply.stored_count == 1
    clicked = next(one for one in await world.stored(1) if one.events)
    assert clicked.served.impression.first_position == 4
    assert [event.position for event in clicked.events] == [5]
    assert [part.arm for part in clicked.served.impression.exposures] == [first.experiments[0].arm]


async def test_an_interleaved_answer_is_reported_with_the_teams_of_its_results(world: World) -> None:
    await world.begin(type_pb.EXPERIMENT_METHOD_INTERLEAVE)
    answer = await world.search("ada")
    assert [(part.experiment, part.arm) for part in answer.experiments] == [("ranking", "")]
    await world.record(click(answer, 0), tokens=[answer.impression_token])
    stored = next(one for one in await world.stored(1) if one.served.impression.query_id == answer.request_id)
    (part,) = stored.served.impression.exposures
    names = {"": 0, "hybrid": 1, "words": 2}
    assert list(part.teams) == [names[result.team] for result in answer.results]


async def test_a_request_that_sets_the_flags_itself_is_no_part_of_the_experiment(world: World) -> None:
    await world.begin(type_pb.EXPERIMENT_METHOD_AB)
    answer = await world.search("ada", features=features_pb2.Features(dense=True))
    assert len(answer.experiments) == 0
    assert answer.impression_token


async def test_an_answer_in_words_has_the_impression_of_its_passages(world: World) -> None:
    request = answer_pb2.AnswerRequest(search=search_pb2.SearchRequest(query="pool", user_id="ada"))
    parts: Any = GatewayStubs(world.platform["gateway"].channel).answers.StreamAnswer(
        answer_pb2.StreamAnswerRequest(answer=request), timeout=20
    )
    try:
        first = await parts.read()
    finally:
        parts.cancel()
    assert first.search.impression_token
    cited = click(first.search, 0, action=event_pb.EVENT_ACTION_CITE)
    assert (await world.record(cited, tokens=[first.search.impression_token])).stored_count == 1


@pytest.mark.parametrize("given", [{"feedback_keys": ""}, {"rollout_address": ""}])
async def test_without_keys_or_a_rollout_service_no_feedback_is_taken(tmp_path: Path, given: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        quiet = await started(stack, tmp_path, **given)
        answer = await quiet.search("ada")
        assert answer.impression_token == b""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await quiet.record(click(answer), tokens=[])
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "FEEDBACK_KEYS" in str(refused.value.details())


async def test_without_the_rollout_service_events_are_to_be_sent_again(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        cut_off = await started(stack, tmp_path, rollout_address="127.0.0.1:1")
        answer = await cut_off.search("ada")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cut_off.record(click(answer), tokens=[answer.impression_token])
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


CALLERS = row("blue", "reader", tenant="blue") + row("red", "reader", tenant="red") + row("boss", "operator")
TENANTS = '[tenants.blue]\ncollections = ["documents"]\n[tenants.red]\ncollections = ["documents"]\n'


async def test_a_tenant_cannot_act_on_the_answer_of_another(tmp_path: Path) -> None:
    doors = Doors(tmp_path / "access", CALLERS + TENANTS)
    async with AsyncExitStack() as stack:
        world = await started(stack, tmp_path)
        guarded = await start(
            stack,
            {"gateway"},
            gateway={
                **doors.variables(),
                "feedback_keys": KEYS,
                "rollout_snapshot_path": tmp_path / "guarded.json",
                **{f"{stage}_address": world.platform[stage].address for stage in ("embedder", "retriever", "rollout")},
            },
        )
        both = World(guarded)
        stub = GatewayStubs(guarded["gateway"].channel).search
        request = search_pb2.SearchRequest(query="pool", user_id="ada")
        answer = await stub.Search(request, timeout=20, metadata=bearer(key_of("blue")))
        tokens = [answer.impression_token]
        foreign = await both.record(click(answer), tokens=tokens, metadata=bearer(key_of("red")))
        assert [rejection.reason for rejection in foreign.rejections] == [
            feedback_pb2.EVENT_REJECTION_REASON_OTHER_TENANT
        ]
        own = await both.record(click(answer), tokens=tokens, metadata=bearer(key_of("blue")))
        assert own.stored_count == 1
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await both.record(click(answer), tokens=tokens, metadata=bearer(key_of("boss")))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


OPERATORS = (
    row("gateway", "gateway")
    + row("boss", "operator")
    + row("blue", "operator", tenant="blue")
    + row("red", "operator", tenant="red")
    + TENANTS.replace('["documents"]', '["documents", "shared"]', 1)
)


@pytest.mark.parametrize(("caller", "read"), [("boss", "abcd"), ("blue", "ad"), ("red", "b")])
async def test_an_operator_exports_the_answers_of_the_own_tenant_from_collections_that_are_its_own(
    tmp_path: Path, caller: str, read: str
) -> None:
    doors = Doors(tmp_path / "access", OPERATORS)
    async with AsyncExitStack() as stack:
        world = World(
            await start(
                stack,
                {"rollout"},
                rollout={"rollout_database_url": f"sqlite:///{tmp_path / 'rollout.db'}", **doors.variables()},
            )
        )
        request = stored_pb.StoreFeedbackRequest()
        for name, tenant, collection in (
            ("a", "blue", "documents"),
            ("b", "red", "documents"),
            ("c", "red", "shared"),
            ("d", "blue", "shared"),
        ):
            made = request.impressions.add().impression
            made.query_id, made.tenant, made.collection, made.first_position = name, tenant, collection, 1
            made.time.GetCurrentTime()
        stub = stored_pb_grpc.FeedbackStoreServiceStub(world.platform["rollout"].channel)
        await stub.StoreFeedback(request, timeout=20, metadata=bearer(key_of("gateway")))
        answers = await world.exported(metadata=bearer(key_of(caller)))
        assert sorted(answer.served.impression.query_id for answer in answers) == list(read)
