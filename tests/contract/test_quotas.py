"""Quotas on the wire, and the name by which a call is told apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from services.chassis.admission.callers import machine_of
from services.chassis.client import StageChannel
from services.chassis.errors import ResourceExhausted
from services.chassis.interceptors import CALLER, caller
from services.gateway.quotas.book import Quota, QuotaBook
from services.gateway.quotas.quotas import Quotas
from services.gateway.quotas.rates import Rates
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from tests.contract.echo import echo_server


@pytest.fixture
def quotas(tmp_path: Any) -> Quotas:
    file = tmp_path / "quotas.yaml"
    file.write_text("anonymous: {calls_per_second: 0.01, burst: 2, bytes_in_flight_mib: 1}", encoding="utf-8")
    return Quotas(QuotaBook(Quota(), file), Rates())


async def ask(channel: StageChannel, query: str = "anything", said: str = "") -> str:
    """Make a call that names its caller; return the name that the stage has for it."""
    stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
    reply = await stub.ExpandQuery(
        expander_pb2.ExpandQueryRequest(query=query), timeout=5, metadata=((CALLER, said),) if said else ()
    )
    return reply.variants[0].text


async def name_of_caller(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return expander_pb2.ExpandQueryResponse(variants=[expander_pb2.Variant(text=caller.get())])


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Expect the refusal of a quota."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_refusal_says_which_quota_is_used_up_and_how_long_to_wait(quotas: Quotas) -> None:
    async with echo_server(name_of_caller, quotas=quotas, edge=True) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        for _ in range(2):
            await ask(channel)
        with pytest.raises(ResourceExhausted) as caught:
            await channel.call(
                stub.ExpandQuery, expander_pb2.ExpandQueryRequest(query="anything"), deadline=time.monotonic() + 5
            )
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.metadata == {"quota": "calls_per_second", "scope": "caller"}
    assert caught.value.retry_after


async def test_neither_a_name_nor_another_connection_makes_another_caller(quotas: Quotas) -> None:
    async with echo_server(name_of_caller, quotas=quotas, edge=True) as channel, StageChannel(channel.address) as other:
        for each, said in ((channel, "one"), (other, "two")):
            assert await ask(each, said=said) == machine_of("ipv4:127.0.0.1:1")
        for each, said in ((channel, "three"), (other, "four")):
            with refused():
                await ask(each, said=said)


async def test_a_stage_that_others_call_believes_them_for_whom() -> None:
    async with echo_server(name_of_caller) as channel:
        assert await ask(channel, said="spiffe://acme/search") == "spiffe://acme/search"
        assert await ask(channel, said="no name") == machine_of("ipv4:127.0.0.1:1")
