"""`python -m bench.telemetry.sink HOST:PORT`: takes spans over OTLP, and throws the bytes away unread.

A collector has a machine of its own; here it shares two cores with what is measured, so it does next to nothing.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

_EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"


async def main(address: str) -> None:
    """Serve until the process is stopped."""

    async def export(_request: bytes, _context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return b""

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_EXPORT, {"Export": handler})])
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
