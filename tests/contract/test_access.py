"""The gate of a stage, on real sockets: keys, tokens, certificates, policies, and their change."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from services.chassis.access.identity import caller_of
from services.chassis.metrics import ServerMetrics
from services.chassis.server import Stage, serving
from sluice.expander.v1 import expander_pb2 as pb
from sluice.expander.v1 import expander_pb2_grpc
from sluice.gateway.v1 import search_pb2, status_pb2, status_pb2_grpc
from sluice_cli.main import app
from sluice_client import AsyncClient, SluiceError
from tests.contract.access import Doors, bearer, key_of, row
from tests.contract.echo import echo_stage

CALLERS = (
    row("gw", "gateway")
    + row("reader", "reader")
    + row("old", "gateway")
    + '[[certificate]]\nname = "dns:gateway"\nroles = ["gateway"]\n'
)
OK, REFUSED, UNKNOWN = (
    grpc.StatusCode.OK,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture
def doors(tmp_path: Path) -> Doors:
    return Doors(tmp_path / "access", CALLERS)


async def who(_request: Any, _context: Any) -> pb.ExpandQueryResponse:
    """Answer with the caller, as the call's handler sees it."""
    caller = caller_of()
    variants = [pb.Variant(text=text) for text in (caller.identity, *sorted(caller.roles), caller.tenant)]
    return pb.ExpandQueryResponse(variants=variants)


async def ask(channel: grpc.aio.Channel, metadata: Metadata = ()) -> tuple[grpc.StatusCode, list[str], str]:
    stub = expander_pb2_grpc.ExpanderServiceStub(channel)
    try:
        reply = await stub.ExpandQuery(pb.ExpandQueryRequest(query="a"), metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code(), [], error.details() or ""
    return OK, [variant.text for variant in reply.variants], ""


async def until(asked: Callable[[], Awaitable[tuple[grpc.StatusCode, list[str], str]]], code: grpc.StatusCode) -> str:
    """Ask until the answer is another one, as it is when files were read again."""
    async with asyncio.timeout(20):
        while (answer := await asked())[0] is not code:
            await asyncio.sleep(0.05)
    return answer[2]


async def test_a_key_and_a_token_say_who_calls(doors: Doors) -> None:
    async with (
        serving(echo_stage(who), doors.settings(), ServerMetrics(CollectorRegistry())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert await ask(channel, bearer(key_of("gw"))) == (OK, ["key:gw", "gateway", ""], "")
        token = doors.token(roles=["gateway"], tenant="blue", team="x")
        assert await ask(channel, bearer(token)) == (OK, ["jwt:alice", "gateway", "blue"], "")
        assert (await ask(channel, bearer(doors.token(roles="gateway stage"))))[1][:3] == [
            "jwt:alice",
            "gateway",
            "stage",
        ]


async def test_who_shows_nothing_or_something_wrong_is_not_heard(doors: Doors) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    claims = {"iss": "https://issuer.example", "aud": "sluice", "sub": "alice", "roles": ["gateway"]}
    soon = time.time() + 60
    refused = [
        (),
        bearer("sluice_unknown"),
        bearer(""),
        (("authorization", f"Basic {key_of('gw')}"),),
        bearer("a.b.c"),
        bearer(doors.token(roles=["gateway"], exp=time.time() - 60)),
        bearer(doors.token(roles=["gateway"], exp=None)),
        bearer(doors.token(roles=["gateway"], aud="another")),
        bearer(doors.token(roles=["gateway"], iss="https://elsewhere.example")),
        bearer(doors.token(roles=["gateway"], sub=None)),
        bearer(doors.token(roles=["gateway"], sub="a\nb")),
        bearer(doors.token(roles=["gateway"], tenant=["blue"])),
        bearer(doors.token(roles=["gateway"], nbf=soon)),
        bearer(doors.token("two", roles=["gateway"])),
        bearer(jwt.encode(claims | {"exp": soon}, own, "ES256", {"kid": "one"})),
        bearer(jwt.encode(claims | {"exp": soon}, None, "none", {"kid": "one"})),
        bearer(jwt.encode(claims | {"exp": soon}, "k" * 64, "HS256", {"kid": "one"})),
    ]
    async with (
        serving(echo_stage(who), doors.settings(), ServerMetrics(CollectorRegistry())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        for metadata in refused:
            code, _, message = await ask(channel, metadata)
            assert code is UNKNOWN, metadata
            assert not metadata or metadata[0][1].partition(" ")[2] not in message or not metadata[0][1].split()[1:]


async def test_a_caller_whom_no_policy_permits_is_refused_by_name(doors: Doors) -> None:
    async with (
        serving(echo_stage(who), doors.settings(), ServerMetrics(CollectorRegistry())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        code, _, message = await ask(channel, bearer(key_of("reader")))
        assert code is REFUSED
        assert "key:reader may not ExpanderService/ExpandQuery" in message


async def test_a_certificate_says_who_calls_and_a_token_port_asks_for_none(doors: Doors) -> None:
    doors.issue("gateway", "gateway")
    doors.issue("stranger", "stranger")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        token_port = free.getsockname()[1]
    settings = doors.settings(tls=True, grpc_token_port=token_port)
    async with serving(echo_stage(who), settings, ServerMetrics(CollectorRegistry())) as server:
        target = f"127.0.0.1:{server.port}"
        async with grpc.aio.secure_channel(target, doors.credentials("gateway")) as channel:
            assert await ask(channel) == (OK, ["dns:gateway", "gateway", ""], "")
            # A token says more than the connection.
            assert (await ask(channel, bearer(key_of("reader"))))[0] is REFUSED
            assert (await ask(channel, bearer("sluice_unknown")))[0] is UNKNOWN
        async with grpc.aio.secure_channel(target, doors.credentials("stranger")) as channel:
            assert (await ask(channel))[0] is REFUSED
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.token_port}", doors.credentials()) as channel:
            assert (await ask(channel))[0] is UNKNOWN
            assert (await ask(channel, bearer(key_of("gw"))))[0] is OK


async def test_both_clients_and_the_command_show_a_token_and_more_metadata(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    async def config(_request: Any, context: Any) -> status_pb2.GetConfigResponse:
        seen.append({"who": caller_of().identity, **{key: str(value) for key, value in context.invocation_metadata()}})
        return status_pb2.GetConfigResponse()

    class Status(status_pb2_grpc.StatusServiceServicer):
        GetConfig = staticmethod(config)

    stage = Stage(
        # Whose health clients watch.
        service=search_pb2.DESCRIPTOR.services_by_name["SearchService"],
        register=lambda server: status_pb2_grpc.add_StatusServiceServicer_to_server(Status(), server),
    )
    tokens = iter((key_of("unknown"), key_of("reader")))
    async with serving(stage, doors.settings(), ServerMetrics(CollectorRegistry())) as server:
        address = f"127.0.0.1:{server.port}"
        async with AsyncClient(address, token=lambda: next(tokens), metadata={"x-team": "blue"}) as client:
            with pytest.raises(SluiceError) as refused:
                await client.config()
            assert refused.value.code is UNKNOWN
            await client.config()
        (doors.folder / "key").write_text(key_of("reader") + "\n")
        options = ["--gateway", address, "--token-file", str(doors.folder / "key"), "--metadata", "X-Team=blue"]
        asked = await asyncio.to_thread(CliRunner().invoke, app, [*options, "config"])
        assert asked.exit_code == 0, asked.stderr
        monkeypatch.setenv("SLUICE_TOKEN", key_of("reader"))
        assert (await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", address, "config"])).exit_code == 0
        monkeypatch.delenv("SLUICE_TOKEN")
        without = await asyncio.to_thread(CliRunner().invoke, app, ["--gateway", address, "config"])
        assert without.exit_code == 3
        assert "SLUICE_TOKEN" in without.stderr
    assert [one["who"] for one in seen] == ["key:reader"] * 3
    assert [one.get("x-team") for one in seen] == ["blue", "blue", None]


async def test_files_are_read_again_and_while_one_is_broken_every_call_is_refused(doors: Doors) -> None:
    doors.write("policy.cedar", "permit (principal, action, resource);")
    async with (
        serving(echo_stage(who), doors.settings(), ServerMetrics(CollectorRegistry())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):

        async def by(metadata: Metadata) -> tuple[grpc.StatusCode, list[str], str]:
            return await ask(channel, metadata)

        old, new = bearer(key_of("old")), bearer(key_of("new"))
        assert (await by(old))[0] is OK
        doors.write("callers.toml", row("new", "gateway"))
        await until(lambda: by(new), OK)
        assert (await by(old))[0] is UNKNOWN
        token = bearer(doors.token())
        assert (await by(token))[0] is OK
        doors.publish("two", ec.generate_private_key(ec.SECP256R1()))
        await until(lambda: by(token), UNKNOWN)
        doors.write("policy.cedar", "permit (principal, action, resource) when")
        assert "cannot be read" in await until(lambda: by(new), REFUSED)
        doors.write("policy.cedar", "permit (principal, action, resource);")
        await until(lambda: by(new), OK)
        (doors.folder / "policy.cedar").unlink()
        await until(lambda: by(new), REFUSED)


async def test_a_policy_forbids_what_it_names_without_a_restart(doors: Doors) -> None:
    doors.write("policy.cedar", "permit (principal, action, resource);")
    async with (
        serving(echo_stage(who), doors.settings(), ServerMetrics(CollectorRegistry())) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        metadata = bearer(key_of("gw"))
        assert (await ask(channel, metadata))[0] is OK
        doors.write(
            "policy.cedar",
            'permit (principal, action, resource); forbid (principal == Caller::"key:gw", action, resource);',
        )
        await until(lambda: ask(channel, metadata), REFUSED)
        assert (await ask(channel, bearer(key_of("reader"))))[0] is OK


@pytest.mark.parametrize("options", [["a b", "--role", "reader"], ["a"], ["a", "--role", "Reader"]])
def test_the_command_refuses_a_key_without_a_name_or_a_role(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["access", "key", "new", *options]).exit_code == 2
