"""The stack that is asked: embedder, retriever, rollout service on PostgreSQL, and two gateways; real processes all.

One gateway is sound. The other one reaches the index and the control plane by ways that may be spoilt (`faults`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.quality.beir import Dataset, load
from deploy.local.paths import BUILD, ROOT
from drills.experiments.faults import LeakingWay, SpoilingIndex
from drills.experiments.people import NO_RESULT, Floats
from drills.parts.processes import StageProcess
from services.chassis.errors import StartupError
from sluice_client import AsyncClient, AsyncExperimentClient
from tests.postgres_server import PostgresServer

DATA = ROOT.parent / "shared" / "data" / "ir"
COLLECTIONS = ("cranfield", "scifact")
LIVE = "scifact"
"""The one of the experiments on the stack."""
KEPT = BUILD / "data" / "experiments"
"""The index: documents are embedded by the first run alone."""
ACTOR = "drill"
RESULTS = 10
"""Results of an answer."""
SERVICE = {
    "ROLLOUT_DECISION_SECONDS": "0.25",
    "ROLLOUT_EXPERIMENT_SECONDS": "0.5",
    "ROLLOUT_LATENCY_WINDOW_SECONDS": "3",
    # What a machine that is busy with other things may keep from us.
    "ROLLOUT_NO_DATA_SECONDS": "60",
    "ROLLOUT_STALE_SECONDS": "60",
    "DRAIN_SECONDS": "0",
}
GATEWAY = {
    "FEEDBACK_KEYS": "a-key-of-the-drill-alone-that-opens-nothing",
    "ROLLOUT_REPORT_SECONDS": "0.5",
    "CONCURRENCY_LOWEST": "64",
    "CONCURRENCY_INITIAL": "64",
    # A fault that is injected is not to be left alone.
    "BREAKER_FAILURES": "1000",
}
EMBEDDER = {"EMBEDDING_MODEL": "all-MiniLM-L6-v2", "INFERENCE_THREADS": "2", "CACHE_ENTRIES": "4096"}


@dataclass(frozen=True)
class Collection:
    """Documents that are stored, and questions with known answers."""

    dataset: Dataset
    index: str
    """Name of the collection in the stack."""

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.dataset.name

    @cached_property
    def questions(self) -> Sequence[str]:
        """Ids of the questions; the answers of the drill are in their order."""
        return sorted(self.dataset.queries)

    @cached_property
    def _best_grade(self) -> int:
        return max(grade for grades in self.dataset.qrels.values() for grade in grades.values())

    def text(self, question: int) -> str:
        """A question, by its place."""
        return self.dataset.queries[self.questions[question]]

    def grades(self, question: int, passages: Sequence[str]) -> Floats:
        """Grades of a ranking, 0 to 1, one for each of RESULTS places."""
        known = self.dataset.qrels[self.questions[question]]
        found = [known.get(passage, 0) / self._best_grade for passage in passages[:RESULTS]]
        return np.array(found + [NO_RESULT] * (RESULTS - len(found)))


@dataclass(frozen=True)
class World:
    """All of it."""

    sound: AsyncClient
    """Asks the gateway of which all is well."""
    spoilt: AsyncClient
    """Asks the other one."""
    index: SpoilingIndex
    """Its index."""
    way: LeakingWay
    """Its way to the control plane."""
    experiments: AsyncExperimentClient
    collections: Mapping[str, Collection]
    processes: Mapping[str, StageProcess]


def read(data: Path) -> list[Dataset]:
    """Read the collections. Raises StartupError where one is missing."""
    missing = [name for name in COLLECTIONS if not (data / name).is_dir()]
    if missing:
        raise StartupError(
            f"{data} does not hold {' and '.join(missing)}",
            remedy="Pass --data FOLDER, a folder with both collections in BEIR's layout: scifact "
            "(https://github.com/beir-cellar/beir) and cranfield with graded judgments.",
        )
    return [load(data / name) for name in COLLECTIONS]


@asynccontextmanager
async def world(datasets: Sequence[Dataset], told: Callable[[str], None]) -> AsyncIterator[World]:
    """Everything serves, and the documents are stored."""
    KEPT.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=BUILD, prefix="experiments-")))
        told("PostgreSQL and the stages are starting")
        postgres = stack.enter_context(PostgresServer())
        service = SERVICE | {"ROLLOUT_DATABASE_URL": postgres.database()}
        processes = {
            "embedder": StageProcess("embedder", "127.0.0.1", EMBEDDER),
            "retriever": StageProcess("retriever", "127.0.0.1", {"QDRANT_PATH": str(KEPT / "qdrant")}),
            "rollout": StageProcess("rollout", "127.0.0.1", service),
        }
        await _serving(stack, processes)
        index = await stack.enter_async_context(SpoilingIndex(processes["retriever"].address))
        way = await stack.enter_async_context(LeakingWay(processes["rollout"].address))
        gateways = {
            "sound": _gateway(
                "sound", processes["embedder"], processes["retriever"].address, processes["rollout"].address, folder
            ),
            "spoilt": _gateway("spoilt", processes["embedder"], index.address, way.address, folder),
        }
        await _serving(stack, gateways)
        sound, spoilt = [
            await stack.enter_async_context(AsyncClient(gateway.address, timeout=20, index_timeout=600))
            for gateway in gateways.values()
        ]
        experiments = await stack.enter_async_context(AsyncExperimentClient(processes["rollout"].address, actor=ACTOR))
        collections = {dataset.name: await _stored(sound, dataset, told) for dataset in datasets}
        yield World(sound, spoilt, index, way, experiments, collections, processes | gateways)


def _gateway(name: str, embedder: StageProcess, retriever: str, rollout: str, folder: Path) -> StageProcess:
    environment = {
        **GATEWAY,
        "EMBEDDER_ADDRESS": embedder.address,
        "RETRIEVER_ADDRESS": retriever,
        "ROLLOUT_ADDRESS": rollout,
        "ROLLOUT_GATEWAY_NAME": name,
        "ROLLOUT_SNAPSHOT_PATH": str(folder / f"{name}.json"),
    }
    return StageProcess("gateway", "127.0.0.1", environment)


async def _serving(stack: AsyncExitStack, processes: Mapping[str, StageProcess]) -> None:
    for process in processes.values():
        stack.push_async_callback(process.close)
        process.spawn()
    for process in processes.values():
        await process.serving()


async def _stored(client: AsyncClient, dataset: Dataset, told: Callable[[str], None]) -> Collection:
    """Store a collection, unless an earlier run did."""
    digest = hashlib.sha256(dataset.corpus_digest.encode()).hexdigest()[:12]
    collection = Collection(dataset, f"{dataset.name}-{digest}")
    whole = [document for document in dataset.documents if document.title.strip() or document.text.strip()]
    found = (await client.config(collection=collection.index)).collection
    if found is None or found.passage_count < len(whole):
        told(f"{len(whole):,} documents of {dataset.name} are stored; later runs find them")
        await client.index_all(whole, collection=collection.index, batch_size=64)
    return collection
