"""The reranker on a real socket, with a model that takes its time: deadlines, and what is done by them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.chassis.client import StageChannel
from services.chassis.errors import DeadlineExceeded
from services.chassis.server import Stage, serving
from services.gateway.rpc.model_clients import RerankerClient
from services.inference.models.info import ModelInfo
from services.inference.models.tokenization import TokenizedPair
from services.inference.scheduling import SchedulerLimits, SchedulerObserver
from services.reranker.metrics import RerankerMetrics
from services.reranker.scorer import Scorer
from services.reranker.servicer import RerankerServicer
from services.reranker.settings import RerankerSettings
from sluice.reranker.v1 import reranker_pb2, reranker_pb2_grpc

PASSAGES = [f"passage {number:03}" for number in range(60)]
SECONDS_A_TOKEN = 0.001


class Slow:
    """A cross-encoder whose score is a passage's number, after a time for each token."""

    model = ModelInfo(
        name="slow",
        fingerprint="slow",
        dimension=1,
        max_token_count=64,
        backend="none",
        precision="fp32",
        device="cpu",
    )

    passage_tokens = 64

    def width(self, token_count: int) -> int:
        return token_count

    def warm_up(self, batch_tokens: int) -> None:
        pass

    def tokenize(self, query: str, passages: Sequence[str]) -> list[TokenizedPair]:
        return [
            TokenizedPair([ord(letter) for letter in query + passage], [0] * len(query + passage), truncated=False)
            for passage in passages
        ]

    def score(self, pairs: Sequence[TokenizedPair]) -> np.ndarray:
        time.sleep(SECONDS_A_TOKEN * sum(pair.token_count for pair in pairs))
        return np.array([int("".join(map(chr, pair.ids[-3:]))) for pair in pairs], dtype=np.float32)


@asynccontextmanager
async def reranker() -> AsyncIterator[StageChannel]:
    limits = SchedulerLimits(batch_tokens=64, cache_entries=0)
    async with Scorer(Slow(), limits, SchedulerObserver()) as scorer:
        servicer = RerankerServicer(scorer, RerankerMetrics(CollectorRegistry()))

        def register(server: grpc.aio.Server) -> None:
            reranker_pb2_grpc.add_RerankerServiceServicer_to_server(servicer, server)

        service = reranker_pb2.DESCRIPTOR.services_by_name["RerankerService"]
        settings = RerankerSettings(grpc_port=0, metrics_port=0)
        stage = Stage(service=service, register=register, problem=lambda: scorer.problem, died=scorer.died)
        async with serving(stage, settings) as server, StageChannel(f"127.0.0.1:{server.port}") as channel:
            yield channel


async def test_the_scores_that_are_done_by_the_deadline_reach_the_caller() -> None:
    async with reranker() as channel:
        client = RerankerClient(channel)
        read = await client.rerank("query", PASSAGES, partial=True, deadline=time.monotonic() + 0.6)
        assert 0 < len(read.scores) < len(PASSAGES)
        assert read.scores == [float(number) for number in range(len(read.scores))]
        assert read.token_count == len(read.scores) * len("query" + PASSAGES[0])


async def test_with_time_for_all_a_partial_answer_is_the_whole_one() -> None:
    async with reranker() as channel:
        client = RerankerClient(channel)
        partly = await client.rerank("query", PASSAGES[:20], partial=True, deadline=time.monotonic() + 60)
        whole = await client.rerank("query", PASSAGES[:20], deadline=time.monotonic() + 60)
        assert partly == whole
        assert len(whole.scores) == 20


async def test_a_call_that_is_not_partial_fails_at_its_deadline() -> None:
    async with reranker() as channel:
        with pytest.raises(DeadlineExceeded):
            await RerankerClient(channel).rerank("query", PASSAGES, deadline=time.monotonic() + 0.3)


async def test_callers_with_partial_calls_all_get_scores_side_by_side() -> None:
    async with reranker() as channel:
        client = RerankerClient(channel)
        deadline = time.monotonic() + 1.0
        answers = await asyncio.gather(
            *(client.rerank(f"query {number}", PASSAGES, partial=True, deadline=deadline) for number in range(4))
        )
        assert all(0 < len(read.scores) < len(PASSAGES) for read in answers)
