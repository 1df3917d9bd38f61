"""The real stack under loads that arrive as people do, and what became of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.speed.load import OK, Call, Endpoint, LoadProcess, Report
from deploy.local import LocalStack
from services.chassis.errors import StartupError
from sluice.gateway.v1 import gateway_pb2
from sluice_cli.calibrate import Counters, read_counters
from sluice_plan import STAGES
from sluice_plan.measurements import MODEL_STAGES, Stage

SEARCH = "/sluice.gateway.v1.GatewayService/Search"
PATIENCE_SECONDS = 30.0
_CALLERS = 12
# An answer that lacks a stage would be a quick one: it is to count as a failure.
_EVERYTHING = gateway_pb2.StagePolicies(
    expansion=gateway_pb2.STAGE_POLICY_REQUIRED,
    embedding=gateway_pb2.STAGE_POLICY_REQUIRED,
    rerank=gateway_pb2.STAGE_POLICY_REQUIRED,
)
_SPARE = 1.5  # calls made beforehand, of those expected


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of the searches at one rate, in one round."""

    rate: float
    """Searches a second that were answered."""
    milliseconds: Sequence[float]
    """Of all searches, from when they were due."""
    failed: int
    busy: dict[Stage, float]
    """The share of time that each stage's bottleneck was held: its model, or its event loop."""
    cpu: dict[Stage, float]
    """Processors that each kept busy."""


class Drill:
    """Asks one stack over and over, and no question twice."""

    def __init__(
        self, stack: LocalStack, load: LoadProcess, collection: str, titles: Sequence[str], candidates: int
    ) -> None:
        self._load = load
        self._endpoint = Endpoint("grpc", stack.address("gateway"), SEARCH)
        self._metrics = {stage: stack.metrics_url(stage) for stage in STAGES}
        self._collection = collection
        self._titles = titles
        self._features = gateway_pb2.Features(
            dense=True, lexical=True, expansion=True, rerank=True, rerank_candidate_count=candidates
        )
        self._chance = random.Random(time.time_ns())

    async def offered(self, rate: float, seconds: float) -> Measured:
        """Searches at random moments (Poisson), however the earlier ones fare."""
        calls = self._calls(int(rate * seconds * _SPARE) + 50)
        seed = self._chance.randrange(2**31)
        measured, ran_dry = await self._measured(
            lambda: self._load.open_loop(
                self._endpoint, calls, per_second=rate, seconds=seconds, timeout=PATIENCE_SECONDS, seed=seed
            ).result()
        )
        if ran_dry:
            raise StartupError("there were too few questions for the time", remedy="This is a fault of the drill.")
        return measured

    async def most(self, expected: float, seconds: float) -> Measured:
        """As many as a dozen callers get answered that ask again at once: what the stack can do."""
        calls = self._calls(int(expected * seconds * 3) + 50)
        measured, _ = await self._measured(
            lambda: self._load.closed_loop(
                self._endpoint, calls, concurrency=_CALLERS, seconds=seconds, warm_up_seconds=1.0
            ).result()
        )
        return measured

    def _calls(self, count: int) -> list[Call]:
        return [
            Call(
                gateway_pb2.SearchRequest(
                    query=f"what does {self._chance.choice(self._titles)} do in case {self._chance.randrange(10**6)}",
                    collection=self._collection,
                    limit=10,
                    features=self._features,
                    policies=_EVERYTHING,
                ).SerializeToString(),
                1,
            )
            for _ in range(count)
        ]

    async def _measured(self, run: Callable[[], Report]) -> tuple[Measured, bool]:
        before = await read_counters(self._metrics)
        report = await asyncio.to_thread(run)
        after = await read_counters(self._metrics)
        seconds = report.ended - report.started
        spent = {stage: after[stage].since(before[stage]) for stage in STAGES}
        measured = Measured(
            rate=report.rate(),
            milliseconds=report.milliseconds(),
            failed=sum(count for code, count in report.codes().items() if code != OK),
            busy={stage: _held(stage, spent[stage]) / seconds for stage in STAGES},
            cpu={stage: spent[stage].cpu_seconds / seconds for stage in STAGES},
        )
        return measured, report.ran_dry


def _held(stage: Stage, spent: Counters) -> float:
    return spent.held_seconds if stage in MODEL_STAGES else spent.cpu_seconds
