"""`python -m drills.access`: every RPC as every caller, forged reports, and rotation under load; build/access.json.

On a local stack of real processes with TLS, where each caller has a key, or the certificate of a stage.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.descriptor import MethodDescriptor
from rich.console import Console
from rich.table import Table

from deploy.local import STAGES, LocalStack
from deploy.local.paths import BUILD, shown
from deploy.local.progress import say
from deploy.local.secured import Secured
from drills.access import matrix
from drills.access.matrix import COLLECTION, WHO
from services.chassis.errors import StartupError
from sluice.rollout.v1 import rollout_pb2 as pb
from sluice.rollout.v1 import rollout_pb2_grpc
from sluice.type.v1 import arm_pb2, features_pb2
from sluice_client import AsyncClient, Document, SluiceError, Tls

RESULT = BUILD / "access.json"
FEATURE = "rerank-v1"
FORGED = 1000
ROTATED_CALLS = 5000
_WORKERS = 4
_QUIET = {
    "EMBEDDING_MODEL": "", "EXPANSION_STRATEGY": "multi_query", "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "", "QUOTA_CALLS_PER_SECOND": "0",
}  # fmt: skip
_TENANTS = f'[tenants.blue]\ncollections = ["{COLLECTION}"]\n\n[tenants.red]\ncollections = ["red-*"]\n'


@dataclass
class World:
    """A secured stack, and channels to it by caller and stage."""

    stack: LocalStack
    secured: Secured
    channels: dict[tuple[str, str], grpc.aio.Channel] = field(default_factory=dict)

    def channel(self, who: str, stage: str) -> grpc.aio.Channel:
        """The channel of a caller: over mutual TLS with a stage's certificate, or by TLS alone."""
        certificate = {"gateway": "gateway", "stage": "embedder"}.get(who, "")
        key = (certificate, stage)
        if key not in self.channels:
            address = self.stack.mutual_address(stage) if certificate else self.stack.address(stage)
            self.channels[key] = grpc.aio.secure_channel(address, self.secured.credentials(certificate))
        return self.channels[key]

    def metadata(self, who: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a caller."""
        if who in ("anonymous", "gateway", "stage"):
            return ()
        return (("authorization", f"Bearer {self.secured.token(who)}"),)

    async def call(self, who: str, method: MethodDescriptor) -> str:
        """Make the call of a cell of the matrix."""
        return await matrix.call(self.channel(who, matrix.stage_of(method)), method, self.metadata(who))

    def client(self, token: Any) -> AsyncClient:
        """A client of the gateway."""
        return AsyncClient(self.stack.address("gateway"), tls=Tls(self.secured.authority), token=token)


async def seen(world: World) -> list[dict[str, Any]]:
    """Try what lists show: the collection to its readers, and to others nothing."""
    rows = []
    for who in ("reader", "writer", "operator", "other"):
        async with world.client(world.secured.token(who)) as client:
            listed = COLLECTION in {one.version.collection async for one in client.list_collections()}
            shown_there = (await client.config(COLLECTION)).collection is not None
        rows.append({"who": who, "expected": who != "other", "got": [listed, shown_there]})
    return rows


async def forged(world: World) -> dict[str, Any]:
    """Report evidence, and acknowledge snapshots, as whoever is no gateway; then kill a feature."""
    operators = rollout_pb2_grpc.RolloutServiceStub(world.channel("operator", "rollout"))
    by_operator = world.metadata("operator")

    async def order(method: str, request: Any) -> Any:
        request.command.CopyFrom(pb.Command(actor="sluice", reason="a drill"))
        return await getattr(operators, method)(request, metadata=by_operator, timeout=10)

    async def feature() -> pb.GetFeatureResponse:
        found: pb.GetFeatureResponse = await operators.GetFeature(
            pb.GetFeatureRequest(name=FEATURE), metadata=by_operator, timeout=10
        )
        return found

    await order("CreateFeature", pb.CreateFeatureRequest(name=FEATURE, features=features_pb2.Features(rerank=True)))
    await order("SetTreatmentShare", pb.SetTreatmentShareRequest(name=FEATURE, treatment_ppm=500_000))
    ramp = f"{FEATURE}.1"
    codes: Counter[str] = Counter()
    for place in range(FORGED):
        who = ("anonymous", "reader", "writer", "operator", "stage", "other")[place % 6]
        stub = rollout_pb2_grpc.SnapshotServiceStub(world.channel(who, "rollout"))
        name = f"invented-{place}"
        report = pb.ReportEvidenceRequest(gateway=name, incarnation=place, sequence=1)
        report.arms.add(feature=FEATURE, ramp_id=ramp, arm=arm_pb2.ARM_TREATMENT, request_count=1000)
        for method, request in (
            ("ReportEvidence", report),
            ("AcknowledgeSnapshot", pb.AcknowledgeSnapshotRequest(gateway=name, version=0)),
        ):
            try:
                await getattr(stub, method)(request, metadata=world.metadata(who), timeout=10)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[error.code().name] += 1
    counted = sum(arm.request_count for arm in (await feature()).arms)
    await order("KillFeature", pb.KillFeatureRequest(name=FEATURE))
    history = None
    for _ in range(100):
        listed = await operators.ListHistory(pb.ListHistoryRequest(name=FEATURE), metadata=by_operator, timeout=10)
        history = listed.entries[-1]
        if history.HasField("done_time"):
            break
        await asyncio.sleep(0.1)
    found = await feature()
    return {
        "forged": FORGED,
        "codes": dict(codes),
        "requests_counted": counted,
        "gateways": [gateway.name for gateway in found.gateways],
        "actors": sorted({entry.actor for entry in listed.entries}),
        "kill_done_seconds": round(history.done_time.ToNanoseconds() / 1e9 - history.time.ToNanoseconds() / 1e9, 2)
        if history is not None and history.HasField("done_time")
        else None,
    }


async def rotated(world: World, calls: int) -> dict[str, Any]:
    """Search without a pause while certificates and keys change twice; return the failures by code."""
    secured = world.secured
    token, failures, done = [secured.token("reader")], Counter[str](), 0
    base = (secured.folder / "callers.toml").read_text(encoding="utf-8")

    async def work(client: AsyncClient) -> None:
        nonlocal done
        while done < calls:
            done += 1
            try:
                await client.search("apple", collection=COLLECTION)
            except SluiceError as error:
                failures[f"{error.code.name} {error.reason}"] += 1

    async def change() -> None:
        old = ""
        for turn in (1, 2):
            while done < calls * turn // 3:
                await asyncio.sleep(0.05)
            for stage in STAGES:
                secured.issue(stage, stage, "localhost")
            name = f"reader-{turn}"
            # The new key is known before it is used, and the old one until it is not used any more.
            new = secured.row(name, "reader", tenant="blue")
            secured.write("callers.toml", base + old + new)
            await asyncio.sleep(3)
            token[0] = secured.token(name)
            await asyncio.sleep(1)
            secured.write("callers.toml", base + new)
            old = new

    async with world.client(lambda: token[0]) as client:
        await asyncio.gather(change(), *(work(client) for _ in range(_WORKERS)))
    secured.write("callers.toml", base)
    return {"calls": done, "failed": sum(failures.values()), "failures": dict(failures), "changes": 2}


async def drilled(calls: int) -> dict[str, Any]:
    """Run all of it."""
    folder = BUILD / "access"
    shutil.rmtree(folder, ignore_errors=True)
    secured = Secured.prepared(STAGES, folder / "files")
    rows = [secured.row(who, who, tenant="blue") for who in ("reader", "writer", "operator")]
    rows.append(secured.row("other", "writer", tenant="red"))
    known = secured.certificates(STAGES)
    secured.write("callers.toml", known + "".join(rows) + _TENANTS)
    async with LocalStack(name="access", environment=_QUIET, data=folder / "data", secured=secured) as stack:
        world = World(stack, secured)
        try:
            async with world.client(secured.token("writer")) as client:
                await client.index([Document("one", "apple", "A tree with apples.")], collection=COLLECTION)
            lists = await seen(world)
            reports = await forged(world)
            rotation = await rotated(world, calls)
            # Last, because what is allowed is done: the collection is deleted.
            cells = await matrix.tried(world.call, frozenset(STAGES))
        finally:
            for channel in world.channels.values():
                await channel.close()
    return {
        "rows": [asdict(cell) for cell in cells],
        "wrong": [asdict(cell) for cell in cells if not cell.ok],
        "lists": lists,
        "forged": reports,
        "rotation": rotation,
    }


def main(
    calls: Annotated[int, typer.Option(help="Searches while certificates and keys change.")] = ROTATED_CALLS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Try every RPC as every caller on a secured stack, forge reports, and rotate certificates and keys under load.

    Example:  python -m drills.access --calls 500
    """
    try:
        found = asyncio.run(drilled(calls))
    except StartupError as error:
        say(error, Console(stderr=True))
        sys.exit(2)
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    wrong_lists = [row for row in found["lists"] if row["got"] != [row["expected"]] * 2]
    forged_ok = found["forged"]["requests_counted"] == 0 and "OK" not in found["forged"]["codes"]
    ok = not (found["wrong"] or wrong_lists or found["rotation"]["failed"]) and forged_ok
    if as_json:
        sys.stdout.write(json.dumps({**found, "ok": ok}) + "\n")
    else:
        _print(found)
    sys.exit(0 if ok else 1)


def _print(found: dict[str, Any]) -> None:
    console = Console()
    table = Table("RPCs", *WHO)
    by_rpc: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        by_rpc.setdefault(row["rpc"].removeprefix("sluice."), {})[row["who"]] = row["got"]
    for rpc, got in by_rpc.items():
        table.add_row(rpc, *(got.get(who, "") for who in WHO))
    console.print(table)
    cells = f"{len(found['rows'])} cells, {len(found['wrong'])} wrong: {found['wrong'] or ''}"
    console.print(cells, found["lists"], found["forged"], found["rotation"], f"details in {shown(RESULT)}", sep="\n")


if __name__ == "__main__":
    typer.run(main)
