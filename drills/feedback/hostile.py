"""Events that must not count: forged, doubled, late, reordered and foreign ones, about real answers of a real gateway.

Two tenants ask; each has a key of its own. Of every kind a good event goes along in the same request, and has to count.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from deploy.local.paths import BUILD
from drills.feedback.traffic import KEY
from drills.feedback.world import GATEWAY, SERVICE, UNLIMITED, World
from drills.parts.processes import StageProcess
from services.gateway.feedback.impressions import Impressions
from sluice.gateway.v1 import feedback_pb2 as pb
from sluice.gateway.v1 import feedback_pb2_grpc
from sluice.type.v1 import feedback_pb2
from sluice.type.v1.impression_pb2 import Impression
from sluice_client import AsyncClient, Document
from tests.postgres_server import PostgresServer

ANSWERS = 40
"""Answers of each tenant."""
TENANTS = ("ours", "theirs")
_DAY = 86_400
_DAYS = 7
_WORDS = "seven wizards box while the quick brown fox jumps over a lazy dog and judges my vow".split()  # noqa: SIM905
_SIGNATURE = 32


@dataclass(frozen=True)
class Served:
    """An answer, and its token."""

    impression: Impression
    token: bytes


@dataclass(frozen=True)
class Attempt:
    """An event that must not count, and the tokens that go along with it."""

    kind: str
    tokens: Sequence[bytes]
    event: feedback_pb2.Event


@dataclass(frozen=True)
class Attacked:
    """A stack with real searches."""

    world: World
    keys: Mapping[str, str]
    served: Mapping[str, Sequence[Served]]


def attempts(served: Sequence[Served], foreign: Sequence[Served], chance: random.Random) -> Iterator[Attempt]:
    """Everything that somebody with answers of their own, and of another tenant, may send."""
    other_key = Impressions(["a key that somebody else has got"])
    real = Impressions([KEY])
    numbers = iter(range(10**9))

    def event(answer: Served, **changed: Any) -> feedback_pb2.Event:
        impression = answer.impression
        made = feedback_pb2.Event(
            event_id=f"bad-{next(numbers)}",
            query_id=impression.query_id,
            action=feedback_pb2.EVENT_ACTION_CLICK,
            object_id=impression.object_ids[0],
            position=impression.first_position,
        )
        made.time.FromMicroseconds(round(time.time() * 1e6))
        for name, value in changed.items():
            if name == "moment":
                made.time.FromMicroseconds(round(value * 1e6))
            else:
                setattr(made, name, value)
        return made

    for place, answer in enumerate(served):
        other, theirs = served[place - 1], foreign[place]
        impression, payload = answer.impression, answer.token[:-_SIGNATURE]
        yield Attempt("random token", [chance.randbytes(chance.randrange(1, 500))], event(answer))
        for _ in range(20):
            bit = chance.randrange(8 * len(answer.token))
            flipped = bytearray(answer.token)
            flipped[bit // 8] ^= 1 << bit % 8
            yield Attempt("flipped bit", [bytes(flipped)], event(answer))
        yield Attempt("cut token", [answer.token[: chance.randrange(len(answer.token))]], event(answer))
        yield Attempt("no token", [], event(answer))
        yield Attempt("another key", [other_key.sign(impression)], event(answer))
        yield Attempt("signature of another answer", [payload + other.token[-_SIGNATURE:]], event(answer))
        moved = Impression.FromString(payload)
        moved.exposures.add(experiment="x", run_id="x.1", arm="treatment")
        yield Attempt("added arm", [moved.SerializeToString() + answer.token[-_SIGNATURE:]], event(answer))
        old = Impression.FromString(payload)
        old.time.seconds -= _DAYS * _DAY + 60
        yield Attempt("late", [real.sign(old)], event(answer))
        early = Impression.FromString(payload)
        early.time.seconds += 3600
        yield Attempt("answer of the future", [real.sign(early)], event(answer))
        served_at = impression.time.seconds
        yield Attempt("before its answer", [answer.token], event(answer, moment=served_at - 3600))
        yield Attempt("from the future", [answer.token], event(answer, moment=time.time() + 3600))
        yield Attempt("reordered", [answer.token], event(answer, position=impression.first_position + 1))
        yield Attempt("position that is none", [answer.token], event(answer, position=1000))
        yield Attempt("foreign result", [answer.token], event(answer, object_id="nobody-has-it", position=0))
        yield Attempt("foreign answer", [answer.token], event(other))
        yield Attempt("token of another tenant", [theirs.token], event(theirs))
        yield Attempt("rating out of range", [answer.token], event(answer, action=3, rating=1.5))
        yield Attempt("no action", [answer.token], event(answer, action=0))


async def attacked() -> dict[str, Any]:
    """Send all of it; the numbers of what counted."""
    async with stack() as made:
        chance = random.Random(7)
        ours, theirs = (made.served[tenant] for tenant in TENANTS)
        tried, answers = Counter[str](), Counter[str]()
        async with grpc.aio.insecure_channel(made.world.gateway.address) as channel:
            stub = feedback_pb2_grpc.FeedbackServiceStub(channel)

            async def send(tokens: Sequence[bytes], events: Sequence[feedback_pb2.Event]) -> pb.RecordEventsResponse:
                request = pb.RecordEventsRequest(impression_tokens=tokens, events=events)
                metadata = (("authorization", f"Bearer {made.keys['ours']}"),)
                reply: pb.RecordEventsResponse = await stub.RecordEvents(request, metadata=metadata, timeout=20)
                return reply

            good = 0
            for attempt in attempts(ours, theirs, chance):
                tried[attempt.kind] += 1
                # One that counts goes along, so that a request that is refused as a whole proves nothing.
                kept, good = _good(chance.choice(ours), f"good-{good}"), good + 1
                known = next(one for one in ours if one.impression.query_id == kept.query_id)
                tokens = [*dict.fromkeys([*attempt.tokens])]
                if attempt.event.query_id == kept.query_id or known.token in tokens:
                    reply = await send(tokens, [attempt.event])
                    good -= 1
                else:
                    reply = await send([*tokens, known.token], [attempt.event, kept])
                for rejection in reply.rejections:
                    answers[pb.EventRejectionReason.Name(rejection.reason).removeprefix("EVENT_REJECTION_REASON_")] += 1
            twice = [_good(answer, f"twice-{place}") for place, answer in enumerate(ours)]
            tokens = [answer.token for answer in ours]
            tried["doubled"] = 9 * len(twice)
            await asyncio.gather(*(send(tokens, [*twice, *reversed(twice)]) for _ in range(5)))
        counted = {
            name: int(made.world.query(f"SELECT count(*) FROM event WHERE event_id LIKE '{name}-%'")[0][0])
            for name in ("bad", "good", "twice")
        }
    return {
        "forged_counted": counted["bad"] + counted["twice"] - len(twice),
        "good_lost": good - counted["good"],
        "good": good,
        "tried": dict(tried),
        "rejected": dict(answers),
    }


def _good(answer: Served, event_id: str) -> feedback_pb2.Event:
    impression = answer.impression
    return feedback_pb2.Event(
        event_id=event_id,
        query_id=impression.query_id,
        action=feedback_pb2.EVENT_ACTION_CLICK,
        object_id=impression.object_ids[0],
    )


@asynccontextmanager
async def stack() -> AsyncIterator[Attacked]:
    """Stages that find something, two tenants, and answers of each."""
    BUILD.mkdir(exist_ok=True)
    async with AsyncExitStack() as owned:
        folder = Path(owned.enter_context(TemporaryDirectory(dir=BUILD, prefix="feedback-")))
        keys = {tenant: f"sluice_{secrets.token_urlsafe(32)}" for tenant in TENANTS}
        (folder / "callers.toml").write_text("".join(_row(*one) for one in keys.items()), encoding="utf-8")
        url = owned.enter_context(PostgresServer()).database()

        async def started(stage: str, **environment: str) -> StageProcess:
            process = StageProcess(stage, "127.0.0.1", environment)
            owned.push_async_callback(process.close)
            await process.start()
            return process

        rollout = await started("rollout", **SERVICE, ROLLOUT_DATABASE_URL=url)
        embedder = await started("embedder", EMBEDDING_MODEL="")
        retriever = await started("retriever", **UNLIMITED, QDRANT_PATH=str(folder / "qdrant"))
        gateway = await started(
            "gateway",
            **GATEWAY,
            AUTH_CALLERS=str(folder / "callers.toml"),
            EMBEDDER_ADDRESS=embedder.address,
            RETRIEVER_ADDRESS=retriever.address,
            ROLLOUT_ADDRESS=rollout.address,
            FEEDBACK_DAYS=str(_DAYS),
            QUOTA_CALLS_PER_SECOND="0",  # a quick machine sends more than a caller may
        )
        served = {tenant: await _asked(gateway.address, key, tenant) for tenant, key in keys.items()}
        yield Attacked(World(url, gateway, rollout), keys, served)


def _row(tenant: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()
    row = f'[[key]]\nname = "{tenant}"\nsha256 = "{digest}"\nroles = ["writer"]\n'
    return f'{row}tenant = "{tenant}"\ncollections = ["*"]\n'


async def _asked(address: str, key: str, tenant: str) -> list[Served]:
    chance = random.Random(tenant)
    collection = f"papers-of-{tenant}"
    async with AsyncClient(address, token=key, timeout=20) as client:
        documents = [Document(f"d{place}", "", " ".join(chance.choices(_WORDS, k=20))) for place in range(50)]
        await client.index_all(documents, collection=collection)
        found = []
        for place in range(ANSWERS):
            question = " ".join(chance.choices(_WORDS, k=5))
            answer = await client.search(question, collection=collection, user_id=f"user-{place}")
            found.append(Served(Impression.FromString(answer.impression_token[:-_SIGNATURE]), answer.impression_token))
    return found
