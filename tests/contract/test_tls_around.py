"""TLS of what goes on beside the calls: metrics that are scraped, traces that are exported; on real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from pydantic import ValidationError

from services.chassis import metrics, tracing
from services.chassis.errors import StartupError
from services.chassis.settings import StageSettings


class Certificates:
    """Files of one authority for loopback: the server's and a caller's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.crt")
        self.issue()

    def issue(self) -> bytes:
        leaf = self.authority.issue_cert("127.0.0.1", "metrics")
        leaf.private_key_pem.write_to_path(self.folder / "tls.key")
        leaf.cert_chain_pems[0].write_to_path(self.folder / "tls.crt")
        return leaf.cert_chain_pems[0].bytes()

    def settings(self, **more: Any) -> StageSettings:
        return StageSettings(
            grpc_tls_certificate=self.folder / "tls.crt",
            grpc_tls_key=self.folder / "tls.key",
            grpc_tls_authority=self.folder / "ca.crt",
            **more,
        )

    def caller(self, *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        if certificate:
            context.load_cert_chain(str(self.folder / "tls.crt"), str(self.folder / "tls.key"))
        return context


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "ours")


@pytest.fixture
def port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        number: int = holder.getsockname()[1]
        return number


def scraped(port: int, context: ssl.SSLContext | None, scheme: str = "https") -> str:
    with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/metrics", timeout=5, context=context) as reply:
        text: str = reply.read().decode()
        return text


def test_metrics_go_to_those_who_show_a_certificate_of_the_authority(
    ours: Certificates, port: int, tmp_path: Path
) -> None:
    with metrics.exposed("test", ours.settings(metrics_port=port, metrics_tls=True)):
        assert "python_info" in scraped(port, ours.caller())
        others = Certificates(tmp_path / "others")
        impostor = ours.caller(certificate=False)
        impostor.load_cert_chain(str(others.folder / "tls.crt"), str(others.folder / "tls.key"))
        for context in (ours.caller(certificate=False), impostor, others.caller()):
            with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
                scraped(port, context)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            scraped(port, None, "http")


def test_a_renewed_certificate_is_shown_to_the_next_scrape(ours: Certificates, port: int) -> None:
    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            ours.caller().wrap_socket(plain, server_hostname="metrics") as secure,
        ):
            return ssl.DER_cert_to_PEM_cert(secure.getpeercert(binary_form=True) or b"")

    with metrics.exposed("test", ours.settings(metrics_port=port, metrics_tls=True)):
        before = shown()
        renewed = ours.issue().decode()
        assert before != shown() == renewed
        (ours.folder / "tls.crt").write_text("half a certificate")
        with pytest.raises(ssl.SSLError):
            ours.caller()
        trusting = ssl.create_default_context(cafile=str(ours.folder / "ca.crt"))
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            trusting.wrap_socket(plain, server_hostname="metrics").close()  # the certificate of the start


def test_a_connection_that_says_nothing_keeps_nobody_from_the_metrics(ours: Certificates, port: int) -> None:
    with (
        metrics.exposed("test", ours.settings(metrics_port=port, metrics_tls=True)),
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert "python_info" in scraped(port, ours.caller())


def test_tls_of_metrics_without_a_certificate_is_refused() -> None:
    with pytest.raises(ValidationError, match="METRICS_TLS needs GRPC_TLS_CERTIFICATE"):
        StageSettings(metrics_tls=True)


def test_a_certificate_that_is_none_is_refused_at_the_start(ours: Certificates, port: int) -> None:
    (ours.folder / "tls.crt").write_text("no certificate")
    with (
        pytest.raises(StartupError, match="METRICS_TLS"),
        metrics.exposed("test", ours.settings(metrics_port=port, metrics_tls=True)),
    ):
        pass


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans."""

    def __init__(self) -> None:
        self.taken = threading.Event()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  the RPC's name
        self.taken.set()
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(ours: Certificates) -> Iterator[tuple[Collector, int]]:
    """A collector that asks for a certificate."""
    taking = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(taking, server)
    pair = ((ours.folder / "tls.key").read_bytes(), (ours.folder / "tls.crt").read_bytes())
    authority = (ours.folder / "ca.crt").read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], authority, True))
    server.start()
    yield taking, port
    server.stop(None)


def exports(settings: StageSettings) -> dict[str, int]:
    """Export one span, and count."""
    counted = {"exported": 0, "lost": 0}

    def count(fate: str, number: int) -> None:
        counted[fate] += number

    with tracing.exporting("test", settings, count), tracing.server_span("a.b/C", (), "id"):
        pass
    return counted


async def test_traces_go_to_the_collector_that_the_authority_vouches_for(
    ours: Certificates, collector: tuple[Collector, int], tmp_path: Path
) -> None:
    taking, port = collector
    files = {
        "otel_exporter_otlp_certificate": ours.folder / "ca.crt",
        "otel_exporter_otlp_client_certificate": ours.folder / "tls.crt",
        "otel_exporter_otlp_client_key": ours.folder / "tls.key",
    }
    endpoint = f"https://127.0.0.1:{port}"
    found = await asyncio.to_thread(exports, StageSettings(otel_exporter_otlp_endpoint=endpoint, **files))
    assert found == {"exported": 1, "lost": 0}
    assert taking.taken.is_set()
    others = Certificates(tmp_path / "others")
    wrong = {**files, "otel_exporter_otlp_certificate": others.folder / "ca.crt"}
    found = await asyncio.to_thread(exports, StageSettings(otel_exporter_otlp_endpoint=endpoint, **wrong))
    assert found == {"exported": 0, "lost": 1}


def test_a_file_of_the_collectors_authority_that_is_missing_is_named(tmp_path: Path) -> None:
    settings = StageSettings(
        otel_exporter_otlp_endpoint="https://127.0.0.1:1", otel_exporter_otlp_certificate=tmp_path / "missing"
    )
    with pytest.raises(StartupError, match="missing cannot be read"):
        exports(settings)


def test_half_a_pair_for_the_collector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="go together"):
        StageSettings(otel_exporter_otlp_client_key=tmp_path / "key")
