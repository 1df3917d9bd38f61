"""Several replicas of a stage, as real processes: one stops, one comes, one is not well."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from drills.faults.drill import Group, Seen
from drills.parts.dns import name_server
from drills.parts.processes import LIGHT, StageProcess, metric, reserve, running
from drills.parts.qdrant import slowed
from drills.parts.scripted import scripted_stages
from services.chassis.client import StageChannel
from services.chassis.errors import SluiceError
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from sluice.type.v1 import model_pb2
from sluice_client import AsyncClient, Features
from sluice_client import SluiceError as ClientError
from tests.qdrant_server import QdrantServer

group: Group[None] = Group("replicas")

EXPANDER = "sluice.expander.v1.ExpanderService"
RETRIEVER = "sluice.retriever.v1.RetrieverService"
CONNECTION_AGE_SECONDS = 30


@asynccontextmanager
async def load(call: Callable[[], Awaitable[str]], workers: int) -> AsyncIterator[Counter[str]]:
    """Call all the time, a number of calls at once, and count the outcomes."""
    ended: Counter[str] = Counter()
    stopping = False

    async def work() -> None:
        while not stopping:
            ended[await call()] += 1

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        yield ended
        stopping = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def reached(ended: Counter[str], calls: int, within: float = 60.0) -> None:
    """Return when a number of calls have ended."""
    async with asyncio.timeout(within):
        while ended.total() < calls:
            await asyncio.sleep(0.01)


def expanding(
    channel: StageChannel, query: str = "how is a replica replaced", seconds: float = 5.0
) -> Callable[[], Awaitable[str]]:
    """A call of the expander, as what came of it."""
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    request = expander_pb2.ExpandQueryRequest(query=query)

    async def call() -> str:
        try:
            await channel.call(stub.ExpandQuery, request, deadline=time.monotonic() + seconds)
        except SluiceError as error:
            return error.reason
        return "OK"

    return call


def words_for(ended: Counter[str]) -> str:
    """Outcomes of calls in words."""
    return ", ".join(f"{count:,} {what}" for what, count in ended.most_common())


@group.row(
    "SIGTERM under load with two replicas",
    "0 failed of >= 2,000 calls to a stage, and of >= 2,000 searches through two gateways, while one replica of "
    "each is stopped and started again",
)
async def sigterm(_nothing: None) -> Seen:
    async with running("expander", LIGHT) as first, running("expander", LIGHT) as second:
        address = f"ipv4:{first.address},{second.address}"
        async with StageChannel(address, service=EXPANDER) as channel, load(expanding(channel), 4) as stage_calls:
            status = await _stop_and_start(second, stage_calls)
    async with scripted_stages() as stages:
        addresses = {f"{name.upper()}_ADDRESS": stage.address for name, stage in stages.items()}
        first, second = StageProcess("gateway", "127.0.0.1", addresses), StageProcess("gateway", "127.0.0.1", addresses)
        try:
            await asyncio.gather(first.start(), second.start())
            async with AsyncClient(f"ipv4:{first.address},{second.address}", timeout=5) as client:

                async def search() -> str:
                    try:
                        await client.search("what", features=Features(expansion=False))
                    except ClientError as error:
                        return f"{error.code.name} {error.reason} ({error.message})"
                    return "OK"

                async with load(search, 4) as searches:
                    gateway_status = await _stop_and_start(second, searches)
        finally:
            await asyncio.gather(first.close(), second.close())
    ok = set(stage_calls) == set(searches) == {"OK"} and min(stage_calls.total(), searches.total()) >= 2000
    ok = ok and status == gateway_status == 0
    words = f"stage: {words_for(stage_calls)}; gateways: {words_for(searches)}"
    return Seen(ok, f"{words}; exit codes {status} and {gateway_status}")


async def _stop_and_start(replica: StageProcess, ended: Counter[str]) -> int:
    await reached(ended, 700)
    replica.terminate()
    status = await replica.ended()
    await reached(ended, max(1400, ended.total() + 100))
    await replica.start()
    await reached(ended, max(2100, ended.total() + 300))
    return status


@group.row(
    "handler beyond the grace",
    "a call that Qdrant holds for a minute does not hold up the retriever: 0.5 s after SIGTERM it drains, 2 s later "
    "the call ends (UNAVAILABLE or CANCELLED) and the process is gone within 1.5 s more, with exit code 0",
)
async def beyond_the_grace(_nothing: None) -> Seen:
    async with QdrantServer() as qdrant:
        environment = {
            "QDRANT_URL": qdrant.url,
            "QDRANT_GRPC_PORT": str(qdrant.port),
            "SHUTDOWN_GRACE_SECONDS": "2",
            "QDRANT_TIMEOUT": "120",
        }
        async with running("retriever", environment) as retriever, StageChannel(retriever.address) as channel:
            stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)
            qdrant.fault = slowed(60)
            request = retriever_pb2.GetCollectionRequest(collection="any")
            deadline = time.monotonic() + 50
            calling = asyncio.create_task(channel.call(stub.GetCollection, request, deadline=deadline))
            await asyncio.sleep(0.5)
            started = time.monotonic()
            retriever.terminate()
            outcome = (await asyncio.gather(calling, return_exceptions=True))[0]
            told = time.monotonic() - started
            status = await retriever.ended(within=30)
            took = time.monotonic() - started
    code = type(outcome).__name__
    ok = code in {"Unavailable", "Cancelled"} and 2.4 <= told <= 4 and took <= 4 and status == 0
    return Seen(
        ok, f"the call ended with {code} {told:.1f} s after SIGTERM, the process {took:.1f} s after it (exit {status})"
    )


@group.row(
    "a replica added gets traffic",
    "a replica that the name server learns of under load is called within the connection age "
    f"({CONNECTION_AGE_SECONDS} s, give or take gRPC's tenth), and no call fails",
)
async def replica_added(_nothing: None) -> Seen:
    with reserve("127.0.0.2") as one, reserve("127.0.0.3") as other:
        port, metrics_port = one.getsockname()[1], other.getsockname()[1]
    environment = {**LIGHT, "GRPC_PORT": str(port), "MAX_CONNECTION_AGE_SECONDS": str(CONNECTION_AGE_SECONDS)}
    metrics = f"127.0.0.3:{metrics_port}"
    async with name_server("127.0.0.2") as names, running("expander", environment, host="127.0.0.2"):
        address = f"dns://127.0.0.1:{names.port}/expander.test:{port}"
        async with StageChannel(address, service=EXPANDER) as channel:
            call = expanding(channel)

            async def steadily() -> str:
                await asyncio.sleep(0.02)
                return await call()

            async with load(steadily, 2) as ended:
                await reached(ended, 20)
                async with running(
                    "expander", environment | {"METRICS_PORT": str(metrics_port)}, host="127.0.0.3"
                ) as added:
                    names.addresses.append("127.0.0.3")
                    started = time.monotonic()
                    took = await _called(metrics, CONNECTION_AGE_SECONDS * 1.1 + 2, started)
                    before = ended.total()
                    await reached(ended, before + 50)
                    share = await _handled(metrics)
                    # Leaves the way a replica leaves: the name first.
                    names.addresses.remove("127.0.0.3")
                    added.terminate()
                    await added.ended()
    ok = took is not None and set(ended) == {"OK"}
    first = "never called" if took is None else f"first called after {took:.1f} s, {share:.0f} calls soon after"
    return Seen(ok, f"{first}; {words_for(ended)}; {names.asked} look-ups")


async def _called(metrics: str, within: float, started: float) -> float | None:
    while time.monotonic() - started < within:
        if await _handled(metrics):
            return time.monotonic() - started
        await asyncio.sleep(0.25)
    return None


async def _handled(metrics: str) -> float:
    return await metric(metrics, "grpc_server_started_total", grpc_service=EXPANDER)


@group.row(
    "NOT_SERVING replica",
    "a retriever that has lost its Qdrant says NOT_SERVING and gets none of 500 calls; the other gets all, and none "
    "fails; once it is well again it gets its share",
)
async def not_serving(_nothing: None) -> Seen:
    async with QdrantServer() as one, QdrantServer() as other:
        environments = [{"QDRANT_URL": qdrant.url, "QDRANT_GRPC_PORT": str(qdrant.port)} for qdrant in (one, other)]
        quick = {"QDRANT_BREAKER_RESET_SECONDS": "1", "QDRANT_POOL_RETRY_ENABLED": "0"}
        async with (
            running("retriever", environments[0] | quick) as well,
            running("retriever", environments[1] | quick) as ill,
            StageChannel(f"ipv4:{well.address},{ill.address}", service=RETRIEVER) as channel,
        ):
            stub = retriever_pb2_grpc.RetrieverServiceStub(channel.channel)
            request = retriever_pb2.CreateCollectionRequest(
                collection="c", model=model_pb2.ModelInfo(name="m", fingerprint="f", dimension=4)
            )
            for replica in (well, ill):
                async with StageChannel(replica.address) as own:
                    create = retriever_pb2_grpc.RetrieverServiceStub(own.channel).CreateCollection
                    await own.call(create, request, deadline=time.monotonic() + 10)

            async def ask(calls: int) -> tuple[Counter[str], int, int]:
                before = one.calls["Get"], other.calls["Get"]
                ended: Counter[str] = Counter()
                for _ in range(calls):
                    try:
                        await channel.call(
                            stub.GetCollection,
                            retriever_pb2.GetCollectionRequest(collection="c"),
                            deadline=time.monotonic() + 5,
                        )
                        ended["OK"] += 1
                    except SluiceError as error:
                        ended[error.reason] += 1
                return ended, one.calls["Get"] - before[0], other.calls["Get"] - before[1]

            _, *both = await ask(100)
            await other.stop()
            lost = time.monotonic()
            await ill.serving("NOT_SERVING")
            noticed = time.monotonic() - lost
            await asyncio.sleep(0.5)  # the word has to get round: health is watched, not asked for
            ended, to_well, to_ill = await ask(500)
            await other.start()
            await ill.serving()
            await asyncio.sleep(1)
            _, *again = await ask(100)
    ok = set(ended) == {"OK"} and (to_well, to_ill) == (500, 0) and min(both) >= 40 and min(again) >= 40
    return Seen(
        ok,
        f"shares {both[0]}:{both[1]} while both serve; NOT_SERVING after {noticed:.1f} s, then {to_well}:{to_ill} "
        f"({words_for(ended)}); {again[0]}:{again[1]} when it serves again",
    )
