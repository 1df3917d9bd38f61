"""Answers with results of two arms, through all stages, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from services.chassis.status import error_from
from sluice.gateway.v1 import documents_pb2, search_pb2
from sluice.rollout.v1 import rollout_pb2
from sluice.type.v1 import experiment_pb2, features_pb2
from tests.contract.canned_rollout import CannedRollout, canned_rollout
from tests.contract.conftest import start
from tests.contract.test_exposure import Gateway

# Words weigh how often they are there, and (pseudo-)vectors in which share of the text.
DOCUMENTS = [
    documents_pb2.Document(
        id=f"d{number}",
        text=" ".join(["pool"] * (1 + number % 5) + [f"word{number * place}" for place in range(number % 7)]),
    )
    for number in range(30)
]
WORDS, VECTORS = features_pb2.Features(dense=False), features_pb2.Features(dense=True, lexical=False)
USERS = [f"user-{number}" for number in range(3)]


def mixed(*arms: features_pb2.Features, killed: bool = False) -> rollout_pb2.SnapshotFeature:
    """Interleaves two arms for everybody."""
    served = experiment_pb2.ServedExperiment(
        method=experiment_pb2.EXPERIMENT_METHOD_INTERLEAVE,
        layer_salt="default",
        bucket_count=1_000_000,
        arms=[
            experiment_pb2.ExperimentArm(name=name, features=features)
            for name, features in zip(("first", "second"), arms, strict=True)
        ],
    )
    return rollout_pb2.SnapshotFeature(
        name="mixed",
        salt="mixed",
        ramp_id="mixed/1",
        lease_duration=Duration(seconds=60),
        experiment=served,
        killed=killed,
    )


@pytest.fixture
async def rollout() -> AsyncIterator[CannedRollout]:
    async with canned_rollout() as running:
        yield running


@pytest.fixture
async def gateway(tmp_path: Path, rollout: CannedRollout) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant"},
            gateway={"rollout_address": rollout.address, "rollout_snapshot_path": tmp_path / "snapshot.json"},
        )
        gateway = Gateway(platform)
        await gateway.stubs.documents.IndexDocuments(
            documents_pb2.IndexDocumentsRequest(documents=DOCUMENTS), timeout=20
        )
        yield gateway


async def pages(gateway: Gateway, user: str, **fields: Any) -> list[search_pb2.SearchResponse]:
    """All pages of an answer."""
    answers = [await gateway.search(user, **fields)]
    while answers[-1].next_page_token:
        answers.append(await gateway.search(user, page_token=answers[-1].next_page_token, **fields))
    return answers


def places(*answers: search_pb2.SearchResponse) -> list[tuple[int, str, str, float]]:
    return [(one.rank, one.passage.id, one.team, one.score) for answer in answers for one in answer.results]


@pytest.mark.parametrize("fields", [{}, {"diversity": 0.5}, {"collapse_duplicates": True}, {"group_by_document": True}])
async def test_pages_of_two_arms_show_every_result_once_and_go_on_with_one_draft(
    gateway: Gateway, rollout: CannedRollout, fields: dict[str, Any]
) -> None:
    rollout.publish(mixed(WORDS, VECTORS))
    await gateway.serves(1)
    for user in USERS:
        whole = await gateway.search(user, limit=100, **fields)
        assert {"first", "second"} <= {one.team for one in whole.results}
        for limit in (4, 7):
            answers = await pages(gateway, user, limit=limit, **fields)
            assert places(*answers) == places(whole)
            assert [len(answer.results) for answer in answers[:-1]] == [limit] * (len(answers) - 1)
            for answer in answers:
                assert not answer.features.dense
                assert [(part.experiment, part.run_id, part.arm) for part in answer.experiments] == [
                    ("mixed", "mixed/1", "")
                ]
        assert sorted(one.passage.id for one in whole.results) == sorted(document.id for document in DOCUMENTS)


async def test_two_equal_arms_answer_as_a_request_without_an_experiment(
    gateway: Gateway, rollout: CannedRollout
) -> None:
    rollout.publish(mixed(WORDS, WORDS))
    await gateway.serves(1)
    for fields in ({}, {"highlights": True}, {"limit": 3}):
        answer, alone = await gateway.search(USERS[0], **fields), await gateway.search("", features=WORDS, **fields)
        assert answer.experiments
        assert not alone.experiments
        assert list(answer.results) == list(alone.results)
        assert [(one.stage, one.outcome, one.reason, one.item_count) for one in answer.stages] == [
            (one.stage, one.outcome, one.reason, one.item_count) for one in alone.stages
        ]


async def test_pages_go_on_after_the_experiment_has_ended_and_not_after_its_kill(
    gateway: Gateway, rollout: CannedRollout
) -> None:
    rollout.publish(mixed(WORDS, VECTORS))
    await gateway.serves(1)
    user = USERS[0]
    whole = await gateway.search(user, limit=100)
    first = await gateway.search(user, limit=5)
    rollout.publish()
    await gateway.serves(2)
    second = await gateway.search(user, limit=5, page_token=first.next_page_token)
    assert places(first, second) == places(whole)[:10]
    assert not second.experiments
    rollout.publish(mixed(WORDS, VECTORS, killed=True))
    await gateway.serves(3)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gateway.search(user, limit=5, page_token=first.next_page_token)
    assert error_from(refused.value).reason == "ANSWER_CHANGED"
