"""The matrix of `make test-access`, in one process: the gateway, the rollout service and a stage, with keys."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from google.protobuf.descriptor import MethodDescriptor

from drills.access import matrix
from services.chassis.access.rpcs import RPCS
from tests.contract.access import Doors, bearer, key_of, row
from tests.contract.conftest import start

CALLERS = (
    "".join(row(who, who, tenant="blue") for who in ("reader", "writer", "operator"))
    + row("gateway", "gateway")
    + row("stage", "stage")
    + row("other", "writer", tenant="red")
    + f'[tenants.blue]\ncollections = ["{matrix.COLLECTION}"]\n[tenants.red]\ncollections = ["red-*"]\n'
)


def test_the_matrix_has_every_rpc() -> None:
    named = {f"/{method.containing_service.full_name}/{method.name}" for method in matrix.methods()}
    assert named >= set(RPCS)


async def test_every_cell_is_as_the_matrix_says(tmp_path: Path) -> None:
    doors = Doors(tmp_path / "access", CALLERS)
    async with AsyncExitStack() as stack:
        platform = await start(
            stack,
            {"embedder", "expander", "retriever", "rollout", "gateway"},
            retriever={"qdrant_path": tmp_path / "qdrant", "qdrant_snapshot_path": str(tmp_path / "snapshots")},
            expander={"wordnet_dir": Path("/there/is/no/wordnet"), **doors.variables()},
            rollout={"rollout_database_url": f"sqlite:///{tmp_path / 'rollout.db'}", **doors.variables()},
            # It has no certificate to show to the rollout service.
            gateway={**doors.variables(), "rollout_address": ""},
        )

        async def call(who: str, method: MethodDescriptor) -> str:
            metadata = () if who == "anonymous" else bearer(key_of(who))
            return await matrix.call(platform[matrix.stage_of(method)].channel, method, metadata)

        cells = await matrix.tried(call, frozenset({"expander", "rollout", "gateway"}))
    assert len(cells) > 300
    assert [cell for cell in cells if not cell.ok] == []


@pytest.mark.parametrize(
    ("expected", "got", "ok"),
    [
        ("allowed", "OK", True),
        ("allowed", "NOT_FOUND", True),
        ("allowed", "PERMISSION_DENIED", False),
        ("allowed", "UNAVAILABLE", False),
        ("PERMISSION_DENIED", "UNAUTHENTICATED", False),
        ("UNAUTHENTICATED", "OK", False),
    ],
)
def test_a_cell_is_right_only_if_the_gate_did_what_it_should(expected: str, got: str, ok: bool) -> None:
    assert matrix.Cell("a", "b", expected, got).ok is ok
