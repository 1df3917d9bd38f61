"""TLS between stages, on real sockets, with an authority made for each test."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from services.chassis import errors, tls
from services.chassis.client import StageChannel
from services.chassis.metrics import ServerMetrics
from services.chassis.server import serving
from services.chassis.settings import StageSettings, load_settings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from sluice_cli.main import app
from sluice_client import Tls
from tests.contract.echo import echo_stage

REQUEST = expander_pb2.ExpandQueryRequest(query="anything")
PATIENCE_SECONDS = 10


class Authority:
    """Issues certificates for loopback into a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(folder / "ca.crt")
        self.issue()

    def issue(self, until: datetime | None = None) -> None:
        leaf = self._authority.issue_cert("127.0.0.1", not_after=until)
        leaf.private_key_pem.write_to_path(self.folder / "tls.key")
        leaf.cert_chain_pems[0].write_to_path(self.folder / "tls.crt")

    def settings(self, **more: Any) -> StageSettings:
        return StageSettings(
            grpc_port=0,
            metrics_port=0,
            drain_seconds=0,
            grpc_tls_certificate=self.folder / "tls.crt",
            grpc_tls_key=self.folder / "tls.key",
            grpc_tls_authority=self.folder / "ca.crt",
            **more,
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def answer(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return expander_pb2.ExpandQueryResponse()


async def ask(port: int, credentials: grpc.ChannelCredentials | None) -> expander_pb2.ExpandQueryResponse:
    async with StageChannel(f"127.0.0.1:{port}", credentials=credentials) as channel:
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        return await channel.call(stub.ExpandQuery, REQUEST, deadline=time.monotonic() + PATIENCE_SECONDS)


async def test_stages_of_one_authority_talk_to_each_other(authority: Authority) -> None:
    settings = authority.settings()
    async with serving(echo_stage(answer), settings) as server:
        assert await ask(server.port, tls.channel_credentials(settings)) == expander_pb2.ExpandQueryResponse()


async def test_the_clients_tls_is_that_of_the_stages(authority: Authority) -> None:
    files = Tls(authority.folder / "ca.crt", authority.folder / "tls.crt", authority.folder / "tls.key")
    async with serving(echo_stage(answer), authority.settings()) as server:
        assert await ask(server.port, files.credentials()) == expander_pb2.ExpandQueryResponse()


def test_the_command_refuses_a_key_without_its_certificate(authority: Authority) -> None:
    for options in (["--tls-key", "tls.key"], ["--tls-certificate", "tls.crt", "--tls-authority", "ca.crt"]):
        files = [option if option.startswith("-") else str(authority.folder / option) for option in options]
        done = CliRunner().invoke(app, [*files, "config"])
        assert done.exit_code == 2
        assert "go together" in done.stderr


def test_the_command_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    names = ("--tls-authority", "--tls-certificate", "--tls-key")
    done = CliRunner().invoke(app, [*(word for name in names for word in (name, str(tmp_path / "no"))), "config"])
    assert done.exit_code == 2


async def test_a_caller_without_a_certificate_is_not_heard(authority: Authority) -> None:
    async with serving(echo_stage(answer), authority.settings()) as server:
        with pytest.raises(errors.Unavailable):
            await ask(server.port, None)
        known = grpc.ssl_channel_credentials((authority.folder / "ca.crt").read_bytes())
        with pytest.raises(errors.Unavailable):
            await ask(server.port, known)


async def test_neither_side_takes_a_certificate_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "theirs")
    async with serving(echo_stage(answer), authority.settings()) as server:
        with pytest.raises(errors.Unavailable):
            await ask(server.port, tls.channel_credentials(other.settings()))


async def test_the_health_port_answers_probes_without_a_certificate_and_nothing_else(authority: Authority) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        health_port = free.getsockname()[1]
    async with serving(echo_stage(answer), authority.settings(health_port=health_port)):
        async with StageChannel(f"127.0.0.1:{health_port}") as channel:
            assert await channel.health("", deadline=time.monotonic() + PATIENCE_SECONDS) is None
        with pytest.raises(errors.Unimplemented):
            await ask(health_port, None)


def serial(certificate: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate).serial_number


def shown(port: int) -> int:
    """Serial number of the certificate that a server shows to who does not check it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as safe:
        der = safe.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def test_a_server_shows_a_renewed_certificate_from_the_next_connection_on(authority: Authority) -> None:
    async with serving(echo_stage(answer), authority.settings()) as server:
        assert await asyncio.to_thread(shown, server.port) == serial((authority.folder / "tls.crt").read_bytes())
        authority.issue()
        assert await asyncio.to_thread(shown, server.port) == serial((authority.folder / "tls.crt").read_bytes())


async def test_a_certificate_without_its_key_is_not_taken_up(authority: Authority) -> None:
    async with serving(echo_stage(answer), authority.settings()) as server:
        before, key = await asyncio.to_thread(shown, server.port), (authority.folder / "tls.key").read_bytes()
        authority.issue()
        (authority.folder / "tls.key").write_bytes(key)
        assert await asyncio.to_thread(shown, server.port) == before
        (authority.folder / "tls.key").unlink()
        assert await asyncio.to_thread(shown, server.port) == before


async def test_a_channel_whose_certificate_is_renewed_shows_the_new_one_and_keeps_the_calls_under_way(
    authority: Authority,
) -> None:
    settings, release = authority.settings(), asyncio.Event()
    seen: list[int] = []

    async def note(request: Any, context: Any) -> expander_pb2.ExpandQueryResponse:
        seen.append(serial(context.auth_context()["x509_pem_cert"][0]))
        if request.query == "wait":
            await release.wait()
        return expander_pb2.ExpandQueryResponse()

    first = tls.channel_credentials(settings)
    async with (
        serving(echo_stage(note), settings) as server,
        StageChannel(f"127.0.0.1:{server.port}", credentials=first) as channel,
    ):
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        deadline = time.monotonic() + PATIENCE_SECONDS
        waiting = asyncio.create_task(
            channel.call(stub.ExpandQuery, expander_pb2.ExpandQueryRequest(query="wait"), deadline=deadline)
        )
        while not seen:
            await asyncio.sleep(0.01)
        before = serial((authority.folder / "tls.crt").read_bytes())
        renewals = tls.renewals(settings, seconds=0.01)
        found = asyncio.ensure_future(anext(renewals))
        authority.issue()
        channel.renew(await asyncio.wait_for(found, PATIENCE_SECONDS))
        await channel.call(stub.ExpandQuery, REQUEST, deadline=deadline)
        release.set()
        assert await waiting == expander_pb2.ExpandQueryResponse()
        assert seen == [before, serial((authority.folder / "tls.crt").read_bytes())]


def test_a_part_of_tls_is_refused_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_TLS_KEY", "/tls/tls.key")
    with pytest.raises(errors.StartupError, match="GRPC_TLS_CERTIFICATE and GRPC_TLS_AUTHORITY missing"):
        load_settings(StageSettings)


def test_a_file_that_is_not_there_is_a_clear_start_up_error(authority: Authority) -> None:
    (authority.folder / "tls.key").unlink()
    with pytest.raises(errors.StartupError, match=r"tls\.key cannot be read"):
        tls.server_credentials(authority.settings())


def test_without_settings_there_is_no_tls() -> None:
    assert tls.server_credentials(StageSettings()) is None
    assert tls.channel_credentials(StageSettings()) is None


@pytest.mark.parametrize("until", [datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 2, tzinfo=UTC)])
async def test_a_stage_shows_when_its_certificate_expires(authority: Authority, until: datetime) -> None:
    authority.issue(until)
    registry = CollectorRegistry()
    async with serving(echo_stage(answer), authority.settings(), ServerMetrics(registry)):
        assert registry.get_sample_value("sluice_certificate_expiry_timestamp_seconds") == until.timestamp()


async def test_a_stage_without_tls_shows_no_expiry() -> None:
    registry = CollectorRegistry()
    settings = StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0)
    async with serving(echo_stage(answer), settings, ServerMetrics(registry)):
        assert registry.get_sample_value("sluice_certificate_expiry_timestamp_seconds") == 0
