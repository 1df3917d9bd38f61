"""The rows of the drill of faults that need no clock (`make test-faults` runs all), and its proxy."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from drills.faults import connections, pool
from drills.parts.proxy import POLL_SECONDS, Proxy

QUICK = [(group, row) for group in (pool.group, connections.group) for row in group.rows if row.quick]


@pytest.mark.parametrize(("group", "row"), QUICK, ids=[row.fault for _group, row in QUICK])
async def test_a_fault_ends_as_the_drill_expects(group, row):
    async with group.setting() as setting:
        seen = await row.run(setting)
    assert seen.ok, seen.words


@asynccontextmanager
async def echoing(**time):
    """A proxy in front of a server that sends back what it receives."""

    async def answer(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", **time) as proxy:
        yield proxy


@pytest.fixture
async def echo():
    async with echoing() as proxy:
        yield proxy


class Pauses:
    """Records the pauses that a proxy makes, and makes none."""

    def __init__(self):
        self.made = []

    async def sleep(self, seconds):
        self.made.append(seconds)
        await asyncio.sleep(0)

    def total(self):
        return sum(self.made)


@pytest.fixture
def pauses():
    return Pauses()


@pytest.fixture
async def timed(pauses):
    """The same without waiting: its clock stands still."""
    async with echoing(sleep=pauses.sleep, clock=lambda: 0.0) as proxy:
        yield proxy


async def connect(proxy):
    host, _, port = proxy.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(connection, data=b"ping"):
    reader, writer = connection
    writer.write(data)
    async with asyncio.timeout(20):
        assert await reader.readexactly(len(data)) == data


async def test_the_proxy_hands_on_what_comes_and_counts_it(echo):
    one, other = await connect(echo), await connect(echo)
    await exchange(one, b"a" * 1_000_000)
    await exchange(other)
    assert (echo.connections, echo.open) == (2, 2)
    assert echo.up.bytes == echo.down.bytes == 1_000_004


async def test_latency_changes_while_a_connection_lives(timed, pauses):
    connection = await connect(timed)
    await exchange(connection)
    assert pauses.total() == 0
    timed.down.latency, timed.up.latency, timed.up.jitter = 0.1, 0.05, 0.01
    await exchange(connection)
    assert 0.15 <= pauses.total() <= 0.16
    timed.heal()
    pauses.made.clear()
    await exchange(connection)
    assert (pauses.total(), timed.connections) == (0, 1)


async def test_latency_delays_and_does_not_limit_the_bandwidth(echo):
    echo.down.latency = 0.2  # a pause of 0.2 s for each of 1,000 writes would outlast the exchange's time limit
    await exchange(await connect(echo), b"a" * 4_000_000)


async def test_bandwidth_is_limited(timed, pauses):
    timed.down.bytes_per_second = 100_000
    await exchange(await connect(timed), b"a" * 50_000)
    # The last pause may come after the last byte.
    assert 0.48 - 1e-9 <= pauses.total() <= 0.5 + 1e-9


async def test_bytes_in_a_blackhole_arrive_once_it_is_lifted(timed, pauses):
    connection = await connect(timed)
    timed.up.blackhole = True
    waiting = asyncio.create_task(exchange(connection))
    async with asyncio.timeout(20):
        while pauses.made.count(POLL_SECONDS) < 3:
            await asyncio.sleep(0)
    assert (waiting.done(), timed.up.bytes) == (False, 0)
    timed.up.blackhole = False
    await waiting


async def test_a_reset_is_a_reset_and_not_an_end(echo):
    reader, writer = connection = await connect(echo)
    await exchange(connection)
    assert echo.reset() == 1
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    await exchange(await connect(echo))


async def test_after_a_half_close_the_client_reads_an_end_and_may_still_write(echo):
    reader, writer = connection = await connect(echo)
    await exchange(connection)
    echo.half_close()
    assert await reader.read() == b""
    before = echo.up.bytes
    writer.write(b"more")
    async with asyncio.timeout(5):
        while echo.up.bytes == before:
            await asyncio.sleep(0.005)


async def test_small_slices_drip(timed, pauses):
    timed.down.slice_bytes, timed.down.slice_pause = 1, 0.01
    await exchange(await connect(timed), b"a" * 20)
    assert pauses.made.count(0.01) in (19, 20)  # the last pause may come after the last byte


async def test_refused_connections_are_taken_again_on_the_same_port(echo):
    connection = await connect(echo)
    address = echo.address
    await echo.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(echo)
    await exchange(connection)
    await echo.accept()
    assert echo.address == address
    await exchange(await connect(echo))


async def test_a_server_that_is_not_there_resets_its_callers():
    async with Proxy("127.0.0.1:1") as proxy:
        reader, writer = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
