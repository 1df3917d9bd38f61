"""Reflection, asked as grpcurl, ghz and buf curl ask: over the whole stream, by v1 or v1alpha."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as pb

from services.chassis.client import StageChannel
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc
from tests.contract.echo import SERVICE, echo_server

REPLY = expander_pb2.ExpandQueryResponse()
V1, V1ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"
FILE = "sluice/expander/v1/expander.proto"

pytestmark = pytest.mark.parametrize("protocol", [V1, V1ALPHA])


async def fine(_request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:
    return REPLY


async def ask(
    channel: StageChannel, protocol: str, *requests: pb.ServerReflectionRequest
) -> list[pb.ServerReflectionResponse]:
    """The replies to requests that share a stream, as tools send them."""
    call = channel.channel.stream_stream(
        f"/{protocol}/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return [reply async for reply in call(iter(requests), timeout=5)]


def symbol(name: str) -> pb.ServerReflectionRequest:
    return pb.ServerReflectionRequest(file_containing_symbol=name)


def files(reply: pb.ServerReflectionResponse) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    found = map(descriptor_pb2.FileDescriptorProto.FromString, reply.file_descriptor_response.file_descriptor_proto)
    return {file.name: file for file in found}


async def test_grpcurl_lists_the_services_and_describes_each(protocol: str) -> None:
    async with echo_server(fine) as channel:
        (listing,) = await ask(channel, protocol, pb.ServerReflectionRequest(list_services="*"))
        names = [found.name for found in listing.list_services_response.service]
        assert {SERVICE, "grpc.health.v1.Health", V1, V1ALPHA} == set(names)
        for name, reply in zip(names, await ask(channel, protocol, *map(symbol, names)), strict=True):
            package, _, service = name.rpartition(".")
            assert any(
                file.package == package and service in {made.name for made in file.service}
                for file in files(reply).values()
            ), name


@pytest.mark.parametrize(
    "name",
    [
        SERVICE,
        f"{SERVICE}.ExpandQuery",
        f".{SERVICE}.ExpandQuery",
        "sluice.expander.v1.ExpandQueryRequest",
        "sluice.expander.v1.ExpandQueryRequest.query",
    ],
)
async def test_a_symbol_of_any_kind_is_found(protocol: str, name: str) -> None:
    async with echo_server(fine) as channel:
        (reply,) = await ask(channel, protocol, symbol(name))
    assert FILE in files(reply)
    assert reply.original_request == symbol(name)


@pytest.mark.parametrize("name", [f"{SERVICE}.Nothing", "sluice.expander.v1.Nothing", "", "."])
async def test_a_symbol_that_is_not_there_is_not_found(protocol: str, name: str) -> None:
    async with echo_server(fine) as channel:
        (reply,) = await ask(channel, protocol, symbol(name))
    assert reply.error_response.error_code == 5


async def test_ghz_calls_a_method_with_what_it_was_told_of_it(protocol: str) -> None:
    """It asks for the method's symbol, reads the messages' types from the file, and calls."""
    async with echo_server(fine) as channel:
        (reply,) = await ask(channel, protocol, symbol(f"{SERVICE}.ExpandQuery"))
        pool = descriptor_pool.DescriptorPool()
        waiting = files(reply)

        def add(file: descriptor_pb2.FileDescriptorProto) -> None:
            for needed in file.dependency:
                if needed in waiting:
                    add(waiting.pop(needed))
            pool.AddSerializedFile(file.SerializeToString())

        add(waiting.pop(FILE))
        method = pool.FindMethodByName(f"{SERVICE}.ExpandQuery")
        assert method.input_type.full_name == "sluice.expander.v1.ExpandQueryRequest"
        stub = expander_pb2_grpc.ExpanderServiceStub(channel.channel)
        assert await stub.ExpandQuery(expander_pb2.ExpandQueryRequest(query="anything"), timeout=5) == REPLY


async def test_buf_curl_resolves_a_service_then_its_dependencies_by_name(protocol: str) -> None:
    async with echo_server(fine) as channel:
        (reply,) = await ask(channel, protocol, symbol(SERVICE))
        needed = files(reply)[FILE].dependency
        assert needed
        asked = [pb.ServerReflectionRequest(host="localhost", file_by_filename=name) for name in needed]
        for name, reply in zip(needed, await ask(channel, protocol, *asked), strict=True):
            assert name in files(reply)
            assert reply.valid_host == "localhost"
