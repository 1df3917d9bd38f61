from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.experiment.bucketing import BUCKETS, Arm
from services.experiment.flags import Overrides
from services.gateway.feedback.impressions import Impressions, Origin
from services.gateway.rollout.table import Decision, ExperimentArm, FeatureArm, Ramp
from services.gateway.search.flags import Features
from services.gateway.search.question import Question
from services.gateway.search.stages import Answer, Result
from sluice.type.v1.impression_pb2 import Impression
from sluice.type.v1.passage_pb2 import Passage
from tests.unit.gateway.samples import COURSE

KEYS = ["a key of sixteen characters", "another key of that length"]
ASKED = Origin("q1", "user-42", "blue")
RAMP = Ramp("rerank-v1", "rerank-v1", Overrides(rerank=True), BUCKETS // 2, BUCKETS // 2, "rerank-v1/1", 10.0)
COMPLETE = Ramp("expansion-v1", "expansion-v1", Overrides(expansion=True), BUCKETS)
ARMS = [
    FeatureArm("rerank-v1", "rerank-v1/1", Arm.CONTROL, ramp=RAMP, unit=7),
    FeatureArm("expansion-v1", "", Arm.TREATMENT, ramp=COMPLETE),
    FeatureArm("late-v1", "late-v1/1", Arm.STANDARD),
]

impressions = st.builds(
    Impression,
    query_id=st.text(max_size=64),
    unit=st.integers(0, 2**64 - 1),
    object_ids=st.lists(st.text(max_size=64), max_size=20),
    first_position=st.integers(0, 1000),
    tenant=st.text(max_size=16),
)


def answer(*ids: str, first: int = 1, teams: tuple[int, ...] = ()) -> Answer:
    results = [
        Result(Passage(id=name), 1.0, first + place, 1.0, first + place, None, team=teams[place] if teams else 0)
        for place, name in enumerate(ids)
    ]
    return Answer(results, [], COURSE, None)


def made(decision: Decision, shown: Answer | None, offset: int = 0) -> Impression:
    question = Question("what", "docs", Features(), offset=offset)
    return Impressions(KEYS).of(ASKED, question, decision, shown, 1_700_000_000_123_456)


def test_an_impression_is_the_page_as_it_was_served() -> None:
    decision = Decision(Features(), ARMS, 3, [ExperimentArm("ranking", "ranking/1", "control")])
    impression = made(decision, answer("b", "a", first=11), offset=10)
    assert (impression.query_id, impression.collection, impression.tenant) == ("q1", "docs", "blue")
    assert (list(impression.object_ids), impression.first_position) == (["b", "a"], 11)
    assert impression.time.ToMicroseconds() == 1_700_000_000_123_456
    assert impression.unit == Impressions(KEYS).unit("user-42") != 0
    parts = [(part.experiment, part.run_id, part.arm, list(part.teams)) for part in impression.exposures]
    assert parts == [("ranking", "ranking/1", "control", []), ("rerank-v1", "rerank-v1/1", "control", [])]


def test_an_interleaved_answer_has_the_team_of_each_result() -> None:
    decision = Decision(Features(), experiments=[ExperimentArm("mixed", "mixed/1", "")])
    (part,) = made(decision, answer("a", "b", "c", teams=(2, 1, 0))).exposures
    assert (part.arm, list(part.teams)) == ("", [2, 1, 0])


def test_a_request_that_failed_has_an_impression_without_results() -> None:
    impression = made(Decision(Features()), None, offset=10)
    assert (list(impression.object_ids), impression.first_position) == ([], 11)


@given(impressions)
def test_what_was_signed_here_is_read_as_it_was(impression: Impression) -> None:
    assert Impressions(KEYS).verified(Impressions(KEYS).sign(impression)) == impression


@given(impressions, st.data())
def test_a_token_of_which_any_byte_was_changed_is_none(impression: Impression, data: st.DataObject) -> None:
    token = bytearray(Impressions(KEYS).sign(impression))
    place = data.draw(st.integers(0, len(token) - 1))
    token[place] ^= data.draw(st.integers(1, 255))
    assert Impressions(KEYS).verified(bytes(token)) is None


@given(st.binary(max_size=200))
@example(b"")
def test_a_token_made_up_is_none(token: bytes) -> None:
    assert Impressions(KEYS).verified(token) is None


@given(impressions, st.integers(0, 40))
def test_a_token_that_was_cut_or_grew_is_none(impression: Impression, count: int) -> None:
    token = Impressions(KEYS).sign(impression)
    assert Impressions(KEYS).verified(token + random.Random(count).randbytes(count + 1)) is None
    assert Impressions(KEYS).verified(token[: -count - 1]) is None


def test_a_token_of_another_key_is_none() -> None:
    token = Impressions(["a key that nobody else has"]).sign(Impression(query_id="q1"))
    assert Impressions(KEYS).verified(token) is None


def test_a_new_key_comes_first_and_the_old_one_still_verifies_and_hashes_as_before() -> None:
    old, both = Impressions(KEYS[1:]), Impressions(KEYS)
    impression = Impression(query_id="q1")
    assert both.verified(old.sign(impression)) == impression
    assert old.verified(both.sign(impression)) is None
    assert (both.unit("user-42"), both.hashed("a")) == (old.unit("user-42"), old.hashed("a"))
    assert Impressions(KEYS[:1]).unit("user-42") != old.unit("user-42")


@given(st.text(min_size=1), st.text(min_size=1))
def test_hashes_tell_equal_from_different_and_show_nothing(one: str, other: str) -> None:
    made = Impressions(KEYS)
    assert (made.unit(one) == made.unit(other)) == (one == other)
    assert (made.hashed(one) == made.hashed(other)) == (one == other)
    assert made.hashed(one).startswith("hmac:")
    assert len(made.hashed(one)) == len("hmac:") + 32


def test_no_user_and_no_text_have_no_hash() -> None:
    assert (Impressions(KEYS).unit(""), Impressions(KEYS).hashed("")) == (0, "")


@pytest.mark.parametrize("purpose", ["unit", "text"])
def test_a_hash_of_a_payload_is_not_its_signature(purpose: str) -> None:
    made = Impressions(KEYS)
    impression = Impression(query_id="q1")
    payload = impression.SerializeToString()
    hashed = (
        made.unit(payload.decode()).to_bytes(8, "big")
        if purpose == "unit"
        else bytes.fromhex(made.hashed(payload.decode())[5:])
    )
    assert not made.sign(impression)[len(payload) :].startswith(hashed)
