"""Three gateways, the stages behind them, the rollout service, and users who ask all the time: real processes all."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from demo import corpus as documentation
from deploy.local.paths import BUILD
from drills.parts.processes import StageProcess
from drills.parts.proxy import Proxy
from drills.rollout_regressions.regressions import SpoilingRetriever
from sluice_cli.load import Zipf
from sluice_cli.loadtest import read_questions
from sluice_client import Arm, AsyncClient, AsyncRolloutClient, Document, SluiceError

GATEWAYS = 3
USERS = 3000
SKEW = 0.9
ASKERS = 18
PASSAGES = 300
LONGEST_CHARACTERS = 160
ACTOR = "drill"
SERVICE_ENVIRONMENT = {
    "ROLLOUT_DECISION_SECONDS": "0.25",
    "ROLLOUT_LATENCY_WINDOW_SECONDS": "3",
    # What a machine that is busy with other things may keep from us.
    "ROLLOUT_NO_DATA_SECONDS": "60",
    "ROLLOUT_STALE_SECONDS": "60",
    "DRAIN_SECONDS": "0",
}
GATEWAY_ENVIRONMENT = {
    "ROLLOUT_REPORT_SECONDS": "0.5",
    "CONCURRENCY_LOWEST": "64",
    "CONCURRENCY_INITIAL": "64",
    # A fault that is injected is not to be left alone.
    "BREAKER_FAILURES": "1000",
}


@dataclass(frozen=True)
class World:
    """Stored documents, questions, and the stages that answer."""

    documents: Callable[[], list[Document]]
    questions: Callable[[], list[str]]
    retriever: type[SpoilingRetriever] = SpoilingRetriever
    embedder: Mapping[str, str] = field(default_factory=lambda: {"EMBEDDING_MODEL": "", "PSEUDO_DIMENSION": "64"})
    gateway: Mapping[str, str] = field(default_factory=dict)
    users: Callable[[], Sequence[str]] = lambda: [f"user-{number}" for number in range(USERS)]
    user_skew: float = SKEW
    """Exponent of Zipf's law by which they ask; 0 means that all ask alike."""


@dataclass
class Replica:
    """One gateway, its way to the rollout service, and what its users were told."""

    name: str
    process: StageProcess
    way: Proxy
    """Between it and the rollout service."""
    overrides: Path
    client: AsyncClient
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    treated: Counter[str] = field(default_factory=Counter)
    """Answers with a feature, by its name."""
    last_treated: dict[str, float] = field(default_factory=dict)
    """Arrival of the last answer with a feature, by its name: seconds since 1970."""


@dataclass
class Platform:
    """All of it."""

    replicas: list[Replica]
    retriever: SpoilingRetriever
    service: StageProcess
    rollout: AsyncRolloutClient

    @property
    def asked(self) -> int:
        """Requests that have ended, on all gateways."""
        return sum(replica.answered + replica.failed.total() for replica in self.replicas)

    def treated(self, feature: str) -> int:
        """Answer with a feature, on all gateways."""
        return sum(replica.treated[feature] for replica in self.replicas)

    def last_treated(self, feature: str) -> float:
        """Arrival of the last answer with a feature anywhere: seconds since 1970, 0 for never."""
        return max(replica.last_treated.get(feature, 0.0) for replica in self.replicas)

    async def treated_everywhere(self, feature: str, within: float = 60.0) -> None:
        """Return when every gateway has answered with a feature."""
        async with asyncio.timeout(within):
            before = {replica.name: replica.treated[feature] for replica in self.replicas}
            while any(replica.treated[feature] <= before[replica.name] for replica in self.replicas):
                await asyncio.sleep(0.02)

    async def settled(self, feature: str, quiet: float = 3.0) -> float:
        """Wait until no answer had a feature for a while; the time of the last one."""
        while time.time() - self.last_treated(feature) < quiet:
            await asyncio.sleep(0.05)
        return self.last_treated(feature)


@asynccontextmanager
async def platform(askers: int = ASKERS, world: World | None = None) -> AsyncIterator[Platform]:
    """Everything serves, documents are stored, and users ask until the end."""
    world = world or World(_documents, lambda: read_questions(None))
    BUILD.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=BUILD, prefix="rollout-regressions-")))
        database = {"ROLLOUT_DATABASE_URL": f"sqlite:///{folder / 'rollout.db'}"}
        embedder, index, reranker, service = await _started(
            stack,
            ("embedder", dict(world.embedder)),
            ("retriever", {"QDRANT_PATH": str(folder / "qdrant")}),
            ("reranker", {"INFERENCE_THREADS": "1"}),
            ("rollout", SERVICE_ENVIRONMENT | database),
        )
        retriever = await stack.enter_async_context(world.retriever(index.address))
        stages = {
            "EMBEDDER_ADDRESS": embedder.address,
            "RETRIEVER_ADDRESS": retriever.address,
            "RERANKER_ADDRESS": reranker.address,
            **world.gateway,
        }
        replicas = [
            await _replica(stack, f"gateway-{number}", service, stages, folder) for number in range(1, GATEWAYS + 1)
        ]
        await replicas[0].client.index_all(world.documents())
        rollout = await stack.enter_async_context(AsyncRolloutClient(service.address, actor=ACTOR))
        made = Platform(replicas, retriever, service, rollout)
        async with _asking(made, askers, world):
            yield made


async def _started(stack: AsyncExitStack, *wanted: tuple[str, dict[str, str]]) -> list[StageProcess]:
    """Stages that serve, started at the same time."""
    processes = [StageProcess(stage, "127.0.0.1", environment) for stage, environment in wanted]
    for process in processes:
        stack.push_async_callback(process.close)
        process.spawn()
    await asyncio.gather(*(process.serving() for process in processes))
    return processes


async def _replica(
    stack: AsyncExitStack, name: str, service: StageProcess, stages: dict[str, str], folder: Path
) -> Replica:
    overrides = folder / f"{name}.env"
    overrides.write_text("")
    way = await stack.enter_async_context(Proxy(service.address))
    environment = {
        **GATEWAY_ENVIRONMENT,
        **stages,
        "ROLLOUT_ADDRESS": way.address,
        "ROLLOUT_GATEWAY_NAME": name,
        "ROLLOUT_SNAPSHOT_PATH": str(folder / f"{name}.json"),
        "ROLLOUT_OVERRIDES_PATH": str(overrides),
    }
    (process,) = await _started(stack, ("gateway", environment))
    client = await stack.enter_async_context(AsyncClient(process.address, timeout=10))
    return Replica(name, process, way, overrides, client)


def _documents() -> list[Document]:
    """A slice of Python's documentation: short passages."""
    short = [
        passage for passage in documentation.load(BUILD / "demo").passages if len(passage.text) <= LONGEST_CHARACTERS
    ]
    chosen = short[:: max(1, len(short) // PASSAGES)]
    return [Document(f"p{number}", passage.title, passage.text) for number, passage in enumerate(chosen)]


@asynccontextmanager
async def _asking(made: Platform, askers: int, world: World) -> AsyncIterator[None]:
    """Users who ask one gateway after the other, some of them much more than others."""
    chance = random.Random(11)
    users = Zipf(world.users(), world.user_skew, chance)
    questions = Zipf(world.questions(), SKEW, chance)

    async def ask(number: int) -> None:
        while True:
            for replica in made.replicas[number % GATEWAYS :] + made.replicas[: number % GATEWAYS]:
                await _ask(replica, users.draw(), questions.draw())

    tasks = [asyncio.create_task(ask(number)) for number in range(askers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
    assert not broken, broken


async def _ask(replica: Replica, user: str, question: str) -> None:
    """Ask, and note what came of it."""
    try:
        answer = await replica.client.search(question, user_id=user)
    except SluiceError as error:
        replica.failed[f"{error.code.name} {error.reason}"] += 1
        await asyncio.sleep(0.01)
        return
    replica.answered += 1
    for arm in answer.arms:
        if arm.arm is Arm.TREATMENT:
            replica.treated[arm.feature] += 1
            replica.last_treated[arm.feature] = time.time()
