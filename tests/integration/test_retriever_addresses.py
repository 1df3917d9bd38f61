"""Several nodes of Qdrant behind one pool, on real sockets; and one that speaks TLS."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress

import grpc
import pytest
import trustme
from prometheus_client import CollectorRegistry
from qdrant_client import grpc as api

from services.chassis.errors import StartupError, Unavailable
from services.retriever.engines.server.nodes import Address, Connection, addresses
from services.retriever.engines.server.pool import QdrantPool
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings
from tests.qdrant_server import QdrantServer


@pytest.fixture
async def servers():
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(QdrantServer()) for _ in range(2)]


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
async def pool(servers, registry):
    settings = RetrieverSettings(
        qdrant_url=",".join(server.url for server in servers),
        qdrant_grpc_port=0,
        qdrant_pool_retry_enabled=False,
        qdrant_breaker_failures=3,
        qdrant_breaker_reset_seconds=3600,
    )
    pool = QdrantPool(settings, RetrieverMetrics(registry))
    yield pool
    await pool.close()


async def ask(client):
    await client.ask(client.collections.List, api.ListCollectionsRequest())


async def call(pool, within=20.0):
    await pool.call(ask, deadline=time.monotonic() + within)


async def test_calls_go_to_all_nodes_in_turn(servers, pool):
    for _ in range(10):
        await call(pool)
    assert [server.calls["List"] for server in servers] == [5, 5]


async def test_a_node_that_dies_costs_no_call_and_serves_again_when_it_is_back(servers, pool, registry):
    for _ in range(4):
        await call(pool)
    dying = servers[0]
    await dying.stop()
    for _ in range(10):
        await call(pool)
    assert servers[1].calls["List"] == 12
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 0
    assert registry.get_sample_value("qdrant_nodes") == 2
    assert registry.get_sample_value("qdrant_nodes_up") == 1
    await dying.start()
    async with asyncio.timeout(30):
        while dying.calls["List"] == 2:
            await call(pool)
            await asyncio.sleep(0.01)
    assert registry.get_sample_value("qdrant_nodes_up") == 2


async def test_a_node_that_hangs_costs_no_call(servers, pool):
    for _ in range(4):
        await call(pool)
    hanging = asyncio.Event()

    async def hang(_method, _context):
        await hanging.wait()

    servers[0].fault = hang
    for _ in range(4):
        await call(pool)
    assert servers[1].calls["List"] == 6
    hanging.set()


async def test_a_slow_call_is_waited_for_as_long_as_its_node_is_healthy(servers, pool):
    async def slow(method, _context):
        if method != "HealthCheck":
            await asyncio.sleep(1.5)

    for server in servers:
        server.fault = slow
    await call(pool)
    assert sum(server.calls["List"] for server in servers) == 1


async def test_the_breaker_opens_when_no_node_answers_and_lets_calls_through_when_one_does(servers, pool, registry):
    await call(pool)
    for server in servers:
        await server.stop()
    for _ in range(3):
        with pytest.raises(Unavailable) as failure:
            await call(pool)
        assert failure.value.reason == "DEPENDENCY_DOWN"
    assert registry.get_sample_value("qdrant_circuit_breaker_open") == 1
    with pytest.raises(Unavailable) as refusal:
        await call(pool)
    assert refusal.value.reason == "BREAKER_OPEN"
    await servers[1].start()
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                await call(pool)
                break
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "port", "expected"),
    [
        ("http://qdrant:6333", 6334, [("qdrant", 6334, False)]),
        ("http://a:6333, http://b:6333,http://a:6333", 6334, [("a", 6334, False), ("b", 6334, False)]),
        ("https://a:1,https://b:2", 0, [("a", 1, True), ("b", 2, True)]),
        ("https://cloud.example", 0, [("cloud.example", 6334, True)]),
        ("http://[::1]:6333", 6334, [("[::1]", 6334, False)]),
    ],
)
def test_addresses_have_the_port_for_grpc(url, port, expected):
    assert addresses(RetrieverSettings(qdrant_url=url, qdrant_grpc_port=port)) == [Address(*one) for one in expected]


class Health(api.QdrantServicer):
    def __init__(self):
        self.metadata = {}

    async def HealthCheck(self, _request, context):  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        return api.HealthCheckReply(version="1.20.0")


async def test_over_tls_the_certificate_is_checked_and_the_key_is_sent(tmp_path):
    authority, health = trustme.CA(), Health()
    certificate = authority.issue_cert("localhost")
    server = grpc.aio.server()
    api.add_QdrantServicer_to_server(health, server)
    pair = certificate.private_key_pem.bytes(), b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    versions = {}
    for name in ("ca.pem", "other.pem"):
        settings = RetrieverSettings(
            qdrant_url=f"https://localhost:{port}",
            qdrant_grpc_port=0,
            qdrant_api_key="secret",
            qdrant_ca_file=tmp_path / name,
            qdrant_pool_retry_enabled=False,
        )
        pool = QdrantPool(settings, RetrieverMetrics(CollectorRegistry()))
        with suppress(Unavailable):
            versions[name] = await pool.call(Connection.version, deadline=time.monotonic() + 20)
        await pool.close()
    assert versions == {"ca.pem": "1.20.0"}
    assert health.metadata["api-key"] == "secret"
    await server.stop(grace=None)


async def test_certificates_that_cannot_be_read_stop_the_start(tmp_path):
    settings = RetrieverSettings(qdrant_url="https://a:1", qdrant_ca_file=tmp_path / "none.pem")
    with pytest.raises(StartupError, match="QDRANT_CA_FILE"):
        QdrantPool(settings, RetrieverMetrics(CollectorRegistry()))
