"""A stage that takes as many seconds for a query as the query says: `python -m drills.parts.slow_stage`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.chassis.server import Stage, run
from services.chassis.settings import StageSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc


class _Slow(expander_pb2_grpc.ExpanderServiceServicer):
    async def ExpandQuery(self, request: Any, _context: Any) -> expander_pb2.ExpandQueryResponse:  # noqa: N802
        await asyncio.sleep(float(request.query))
        return expander_pb2.ExpandQueryResponse()


@asynccontextmanager
async def _compose(_settings: StageSettings) -> AsyncIterator[Stage]:
    yield Stage(
        service=expander_pb2.DESCRIPTOR.services_by_name["ExpanderService"],
        register=lambda server: expander_pb2_grpc.add_ExpanderServiceServicer_to_server(_Slow(), server),
    )


if __name__ == "__main__":
    run("slow", StageSettings, _compose)
