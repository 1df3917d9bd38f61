"""The gateway and a rollout service of canned snapshots, on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis import errors
from services.experiment.bucketing import bucket, unit_hash
from services.experiment.latencies import EDGES
from services.gateway.metrics import process_metrics
from sluice.gateway.v1 import answer_pb2, documents_pb2, search_pb2
from sluice.rollout.v1 import rollout_pb2
from sluice.type.v1 import arm_pb2, features_pb2, filter_pb2, stage_pb2
from tests.contract.canned_rollout import CannedRollout, canned_rollout, feature
from tests.contract.conftest import Platform, start
from tests.stubs import GatewayStubs

KIND = {"kind": filter_pb2.Value(string_value="module")}
DOCUMENTS = [
    documents_pb2.Document(id=f"d{number}", title=f"pool {number}", text="threads wait in a pool", metadata=KIND)
    for number in range(5)
]
TREATED = next(f"user-{number}" for number in range(1000) if bucket("rerank-v1", f"user-{number}") < 100_000)
CONTROL = next(f"user-{number}" for number in range(1000) if bucket("rerank-v1", f"user-{number}") >= 900_000)
ON = features_pb2.Features(expansion=True)


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)


class Gateway:
    """A gateway with stages behind it, as its callers see it."""

    def __init__(self, platform: Platform) -> None:
        self.stubs = GatewayStubs(platform["gateway"].channel)

    async def search(self, user: str = TREATED, **fields: Any) -> search_pb2.SearchResponse:
        answer: search_pb2.SearchResponse = await self.stubs.search.Search(
            search_pb2.SearchRequest(query="pool", user_id=user, **fields), timeout=20
        )
        return answer

    async def serves(self, version: int) -> search_pb2.SearchResponse:
        """The first answer that this version of the snapshot decided."""
        deadline = time.monotonic() + 20
        while (answer := await self.search()).snapshot_version != version:
            assert time.monotonic() < deadline, f"version {version} never came"
            await asyncio.sleep(0.01)
        return answer


@pytest.fixture
async def rollout() -> AsyncIterator[CannedRollout]:
    async with canned_rollout() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, rollout: CannedRollout) -> dict[str, Any]:
    return {
        "rollout_address": rollout.address,
        "rollout_snapshot_path": tmp_path / "snapshot.json",
        "rollout_overrides_path": tmp_path / "overrides.env",
        "rollout_report_seconds": 0.05,
    }


async def started(stack: AsyncExitStack, tmp_path: Path, settings: dict[str, Any]) -> Gateway:
    platform = await start(
        stack,
        {"embedder", "expander", "retriever", "gateway"},
        retriever={"qdrant_path": tmp_path / "qdrant"},
        gateway=settings,
    )
    gateway = Gateway(platform)
    await gateway.stubs.documents.IndexDocuments(documents_pb2.IndexDocumentsRequest(documents=DOCUMENTS), timeout=20)
    return gateway


@pytest.fixture
async def gateway(tmp_path: Path, settings: dict[str, Any]) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        yield await started(stack, tmp_path, settings)


def arms(answer: search_pb2.SearchResponse) -> dict[str, tuple[str, str]]:
    def reason(arm: search_pb2.FeatureArm) -> str:
        return search_pb2.ArmReason.Name(arm.reason).removeprefix("ARM_REASON_") if arm.reason else ""

    return {arm.feature: (arm_pb2.Arm.Name(arm.arm).removeprefix("ARM_"), reason(arm)) for arm in answer.arms}


async def test_users_of_treatment_get_the_feature_and_others_do_not(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=100_000, control_ppm=100_000))
    answer = await gateway.serves(1)
    assert (answer.features.expansion, arms(answer)) == (True, {"rerank-v1": ("TREATMENT", "")})
    assert answer.arms[0].ramp_id == "rerank-v1.1"
    control = await gateway.search(CONTROL)
    assert (control.features.expansion, arms(control)) == (False, {"rerank-v1": ("CONTROL", "")})
    nobody = await gateway.search("")
    assert (nobody.features.expansion, arms(nobody)) == (False, {"rerank-v1": ("STANDARD", "NO_USER")})
    asking = await gateway.search(CONTROL, features=ON)
    assert (asking.features.expansion, arms(asking)) == (True, {"rerank-v1": ("STANDARD", "REQUEST_DECIDED")})


async def test_every_snapshot_that_is_served_is_acknowledged(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=1), feature("bad-v1", salt=""))
    await until(lambda: rollout.acknowledged)
    assert rollout.acknowledged[-1].version == 1
    assert rollout.snapshot is not None
    assert rollout.acknowledged[-1].content_hash == rollout.snapshot.content_hash
    assert [(entry.name, bool(entry.reason)) for entry in rollout.acknowledged[-1].quarantined] == [("bad-v1", True)]
    rollout.publish()
    await until(lambda: rollout.acknowledged[-1].version == 2)
    # Only the number is new: nothing is sent but that.
    rollout.publish(version=3)
    await until(lambda: rollout.acknowledged[-1].version == 3)


async def test_a_kill_is_stronger_than_what_a_request_asks_for(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000))
    await gateway.serves(1)
    first = await gateway.search(limit=1, features=ON)
    assert first.next_page_token
    rollout.publish(feature(killed=True))
    await gateway.serves(2)
    answer = await gateway.search(features=ON)
    assert (answer.features.expansion, arms(answer)) == (False, {"rerank-v1": ("STANDARD", "KILLED")})
    # Without the variants the order is another one: going on would repeat some results and lose others.
    with pytest.raises(grpc.aio.AioRpcError, match="begin again without page_token") as refused:
        await gateway.search(limit=1, features=ON, page_token=first.next_page_token)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_pages_of_one_answer_are_decided_once(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000))
    await gateway.serves(1)
    first = await gateway.search(limit=1)
    rollout.publish(feature())
    await gateway.serves(2)
    second = await gateway.search(limit=1, page_token=first.next_page_token)
    assert second.features.expansion is True
    assert arms(second) == {}
    assert (await gateway.search(limit=1)).features.expansion is False


async def test_a_lease_ends_when_the_service_falls_silent_and_begins_again_with_its_word(
    gateway: Gateway, rollout: CannedRollout
) -> None:
    lease = {"nanos": 300_000_000}
    complete = feature(
        "done-v1", treatment_ppm=1_000_000, lease_duration=None, features=features_pb2.Features(lexical=True)
    )
    rollout.publish(feature(treatment_ppm=1_000_000, lease_duration=lease), complete)
    assert (await gateway.serves(1)).features.expansion is True
    rollout.silent = True
    while (answer := await gateway.search()).features.expansion:
        await asyncio.sleep(0.01)
    assert arms(answer) == {"rerank-v1": ("STANDARD", "LEASE_ENDED"), "done-v1": ("TREATMENT", "")}
    rollout.silent = False
    while not (await gateway.search()).features.expansion:
        await asyncio.sleep(0.01)


async def test_a_gateway_that_is_cut_off_can_be_told_to_kill(
    gateway: Gateway, rollout: CannedRollout, tmp_path: Path
) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000))
    assert (await gateway.serves(1)).features.expansion is True
    rollout.silent = True
    (tmp_path / "overrides.env").write_text("ROLLOUT_KILL=rerank-v1\n")
    while (answer := await gateway.search(features=ON)).features.expansion:
        await asyncio.sleep(0.01)
    assert arms(answer) == {"rerank-v1": ("STANDARD", "KILLED")}
    await until(lambda: list(rollout.acknowledged[-1].locally_killed) == ["rerank-v1"])


def snapshots_refused() -> float:
    """Number of snapshots that gateways of this process have refused."""
    [metric] = process_metrics().snapshots_refused.collect()
    return sum(sample.value for sample in metric.samples)


async def test_a_refused_snapshot_leaves_what_was_served(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000), version=5)
    await gateway.serves(5)
    older = rollout.publish(version=4)
    truncated = rollout.publish(feature("a"), feature("b"), version=6)
    del truncated.features[1]
    for refused in (older, truncated):
        before = snapshots_refused()
        rollout.send(refused)
        await until(lambda before=before: snapshots_refused() > before)
        answer = await gateway.search()
        assert (answer.snapshot_version, answer.features.expansion) == (5, True)
    assert {entry.version for entry in rollout.acknowledged} == {5}
    rollout.publish(version=7)
    assert (await gateway.serves(7)).features.expansion is False


async def test_a_gateway_that_starts_without_the_service_serves_what_it_last_did_but_no_ramp(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with canned_rollout() as rollout, AsyncExitStack() as stack:
        await started(stack, tmp_path, settings | {"rollout_address": rollout.address})
        complete = feature("done-v1", treatment_ppm=1_000_000, lease_duration=None)
        killed = feature("bad-v1", killed=True, features=features_pb2.Features(rerank=True))
        ramping = feature(treatment_ppm=1_000_000, features=features_pb2.Features(max_variant_count=2))
        rollout.publish(complete, killed, ramping)
        await until(lambda: rollout.acknowledged)
        await until((tmp_path / "snapshot.json").exists)
    async with AsyncExitStack() as stack:
        gateway = await started(stack, tmp_path, settings | {"rollout_address": rollout.address})
        answer = await gateway.search(features=features_pb2.Features(rerank=True))
        assert (answer.snapshot_version, answer.features.expansion, answer.features.rerank) == (1, True, False)
        assert answer.features.max_variant_count == 5
        assert arms(answer)["rerank-v1"] == ("STANDARD", "LEASE_ENDED")
        # The service comes back on its port, and is asked only for what is new.
        async with canned_rollout(int(rollout.address.rpartition(":")[2]), rollout):
            while (await gateway.search()).features.max_variant_count != 2:
                await asyncio.sleep(0.01)
            assert rollout.watches[-1].content_hash == rollout.snapshot.content_hash  # type: ignore[union-attr]


async def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, settings: dict[str, Any]) -> None:
    (tmp_path / "snapshot.json").write_text('{"sha256": ')
    async with AsyncExitStack() as stack:
        gateway = await started(stack, tmp_path, settings)
        assert (await gateway.search()).snapshot_version == 0


# Evidence


def evidence(rollout: CannedRollout, *arm: int) -> list[rollout_pb2.ArmEvidence]:
    return [entry for report in rollout.reports for entry in report.arms if not arm or entry.arm in arm]


async def test_what_requests_came_to_is_reported_by_arm(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=100_000, control_ppm=100_000, latency_threshold={"nanos": 1}))
    await gateway.serves(1)
    await gateway.search(CONTROL)
    await gateway.search("")
    await gateway.search(CONTROL, features=ON)
    await until(lambda: evidence(rollout, arm_pb2.ARM_CONTROL) and evidence(rollout, arm_pb2.ARM_TREATMENT))
    (control,) = evidence(rollout, arm_pb2.ARM_CONTROL)
    assert (control.feature, control.ramp_id, control.request_count) == ("rerank-v1", "rerank-v1.1", 1)
    assert list(control.units) == [unit_hash("rerank-v1", CONTROL)]
    assert (len(control.latency_counts), sum(control.latency_counts)) == (len(EDGES) + 1, 1)
    (slow,) = control.bad_events
    assert (slow.guardrail, slow.event_count, list(slow.units)) == (
        rollout_pb2.GUARDRAIL_LATENCY,
        1,
        [unit_hash("rerank-v1", CONTROL)],
    )
    numbers = [report.sequence for report in rollout.reports]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len({(report.gateway, report.incarnation) for report in rollout.reports}) == 1


async def test_an_answer_without_results_is_evidence_and_the_callers_mistake_is_none(
    gateway: Gateway, rollout: CannedRollout
) -> None:
    rollout.publish(feature(control_ppm=1_000_000))
    await gateway.serves(1)
    nothing = filter_pb2.Filter(must=[filter_pb2.Condition(field="kind", equals=filter_pb2.Value(string_value="none"))])
    await gateway.search(filter=nothing)
    with pytest.raises(Exception, match="does not exist"):
        await gateway.search(collection="elsewhere")
    await until(lambda: any(entry.bad_events for entry in evidence(rollout)))
    bad = [(events.guardrail, events.event_count) for entry in evidence(rollout) for events in entry.bad_events]
    assert bad == [(rollout_pb2.GUARDRAIL_EMPTY_RESULTS, 1)]


async def test_a_report_that_fails_is_sent_again_as_it_was_and_one_that_is_refused_is_not(
    gateway: Gateway, rollout: CannedRollout
) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000))
    await gateway.serves(1)
    await until(lambda: evidence(rollout))
    rollout.failures.extend(
        [errors.Unavailable("away"), errors.Internal("at fault"), errors.InvalidArgument("arms", "no")]
    )
    await until(lambda: not rollout.failures)
    last = rollout.reports[-1]
    assert [report.sequence for report in rollout.reports].count(last.sequence) == 3
    assert all(report == last for report in rollout.reports if report.sequence == last.sequence)
    await until(lambda: rollout.reports[-1].sequence > last.sequence)


# Comparing


async def test_a_comparison_has_both_answers_and_how_they_differ(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(treatment_ppm=1_000_000))
    await gateway.serves(1)
    compared = await gateway.stubs.search.CompareSearch(
        search_pb2.CompareSearchRequest(
            search=search_pb2.SearchRequest(query="pool", user_id=TREATED, limit=3),
            enhanced=features_pb2.Features(expansion=True),
        ),
        timeout=20,
    )
    assert (compared.standard.features.expansion, compared.enhanced.features.expansion) == (False, True)
    assert (compared.depth, compared.persistence) == (3, 0.9)
    assert len(compared.standard.results) == len(compared.enhanced.results) == 3
    assert 0 <= compared.rank_biased_overlap <= 1
    assert 0 <= compared.overlap <= 1
    of_searches = {*stage_pb2.Stage.values()} - {stage_pb2.STAGE_UNSPECIFIED, stage_pb2.STAGE_REASON}
    assert {report.stage for report in compared.enhanced.stages} == of_searches
    assert compared.standard_duration.ToNanoseconds() > 0
    assert {reason for _, reason in arms(compared.enhanced).values()} <= {"NO_USER", "REQUEST_DECIDED"}
    same = await gateway.stubs.search.CompareSearch(
        search_pb2.CompareSearchRequest(
            search=search_pb2.SearchRequest(query="pool"), enhanced=features_pb2.Features(lexical=True)
        ),
        timeout=20,
    )
    assert (same.overlap, same.rank_biased_overlap) == (1.0, pytest.approx(1.0))


async def test_a_comparison_may_be_with_a_feature_of_the_rollout(gateway: Gateway, rollout: CannedRollout) -> None:
    rollout.publish(feature(), feature("bad-v1", killed=True, features=features_pb2.Features(rerank=True)))
    await gateway.serves(2 if rollout.snapshot is None else rollout.snapshot.version)
    search = search_pb2.SearchRequest(query="pool")
    compared = await gateway.stubs.search.CompareSearch(
        search_pb2.CompareSearchRequest(search=search, feature="rerank-v1"), timeout=20
    )
    assert compared.enhanced.features.expansion is True
    for wrong, problem in (
        (search_pb2.CompareSearchRequest(search=search, feature="none"), "there are: rerank-v1"),
        (search_pb2.CompareSearchRequest(search=search, feature="bad-v1"), "is killed"),
        (search_pb2.CompareSearchRequest(search=search, feature="rerank-v1", enhanced=ON), "both set"),
        (search_pb2.CompareSearchRequest(search=search_pb2.SearchRequest(query=" ")), "search.query"),
        (
            search_pb2.CompareSearchRequest(search=search_pb2.SearchRequest(query="a", page_token="b")),
            "search.page_token",
        ),
        (search_pb2.CompareSearchRequest(search=search, persistence=1.0), "persistence"),
    ):
        with pytest.raises(Exception, match=problem):
            await gateway.stubs.search.CompareSearch(wrong, timeout=20)


async def test_the_name_of_a_user_has_bounds(gateway: Gateway) -> None:
    with pytest.raises(Exception, match="user_id: is 1025 bytes long"):
        await gateway.search("u" * 1025)


async def test_an_answer_in_words_is_a_search_of_its_user(gateway: Gateway, rollout: CannedRollout) -> None:
    """No reasoner runs here, and the evidence says so."""
    reasoning = features_pb2.Features(reasoning=True)
    rollout.publish(feature(features=reasoning, treatment_ppm=500_000, control_ppm=500_000))
    await gateway.serves(1)
    rollout.reports.clear()
    answer = answer_pb2.AnswerRequest(search=search_pb2.SearchRequest(query="pool", user_id=TREATED))
    replied = await gateway.stubs.answers.Answer(answer, timeout=20)
    assert (replied.search.features.reasoning, arms(replied.search)) == (True, {"rerank-v1": ("TREATMENT", "")})
    await until(lambda: any(entry.bad_events for entry in evidence(rollout, arm_pb2.ARM_TREATMENT)))
    bad = {events.guardrail for entry in evidence(rollout) for events in entry.bad_events}
    assert bad == {rollout_pb2.GUARDRAIL_EXPOSURE}
    rollout.publish(feature(features=reasoning, killed=True))
    await gateway.serves(2)
    answer.search.features.reasoning = True
    replied = await gateway.stubs.answers.Answer(answer, timeout=20)
    assert (replied.search.features.reasoning, arms(replied.search)) == (False, {"rerank-v1": ("STANDARD", "KILLED")})
