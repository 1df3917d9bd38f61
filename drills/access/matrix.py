"""The table by which every RPC is tried by every caller, written apart from the policies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from deploy.local.paths import ROOT

WHO = ("anonymous", "reader", "writer", "operator", "gateway", "stage", "other")
"""Callers; `other` is a writer of another tenant, who asks about a collection that is not its own."""
COLLECTION = "papers"
ALLOWED = "allowed"

_MAY: Mapping[str, Mapping[str, str]] = {
    "SearchService": {"*": "reader writer"},
    "AnswerService": {"*": "reader writer"},
    # It is about no collection, but about answers that the caller was given.
    "FeedbackService": {"*": "reader writer other"},
    "DocumentService": {
        "GetDocuments": "reader writer",
        "ListDocuments": "reader writer",
        "IndexDocuments": "writer",
        "DeleteDocuments": "writer",
        "RelateDocuments": "writer",
    },
    # They show what the caller may read, and to `other` nothing.
    "StatusService": {"GetConfig": "reader writer operator other"},
    "CollectionService": {"ListCollections": "reader writer operator other", "*": "operator"},
    "TransferService": {"*": "operator"},
    "AccessService": {"*": "operator"},
    "RolloutService": {"*": "operator"},
    "ExperimentService": {"*": "operator"},
    "FeedbackStoreService": {"StoreFeedback": "gateway", "ExportFeedback": "operator"},
    "SnapshotService": {"*": "gateway"},
}
_STAGES = {"*": "gateway"}
_SECONDS = 30.0

Caller = Callable[[str, MethodDescriptor], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the matrix."""

    rpc: str
    who: str
    expected: str
    """`allowed`, or the code of the refusal."""
    got: str
    """The code of the answer."""

    @property
    def ok(self) -> bool:
        """True if the gate let the call pass, or refused it, as expected; a stage that is away answers nothing."""
        refusals = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNAVAILABLE", "UNIMPLEMENTED")
        return self.got not in refusals if self.expected == ALLOWED else self.got == self.expected


def methods() -> Iterator[MethodDescriptor]:
    """Iterate over the RPCs of all protos."""
    protos = ROOT / "protos"
    for file in sorted(protos.glob("sluice/*/v1/*.proto")):
        module = import_module(".".join(file.relative_to(protos).with_suffix("").parts) + "_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


def stage_of(method: MethodDescriptor) -> str:
    """The stage that serves an RPC."""
    return str(method.containing_service.full_name.split(".")[1])


def expected(method: MethodDescriptor, who: str) -> str:
    """The outcome that a call is to have."""
    if who == "anonymous":
        return "UNAUTHENTICATED"
    rows = _MAY.get(method.containing_service.name, _STAGES)
    return ALLOWED if who in rows.get(method.name, rows.get("*", "")).split() else "PERMISSION_DENIED"


def request_of(method: MethodDescriptor) -> Message:
    """A request about the collection, as small as can be."""
    request = _type_of(method)()
    _name_collection(request)
    return request


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...] = ()) -> str:
    """Make a call, and return the code of its answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    # What comes back does not matter, and is not read.
    how = {"request_serializer": _type_of(method).SerializeToString, "response_deserializer": None}
    try:
        if method.server_streaming:
            pending: Any = channel.unary_stream(path, **how)(request_of(method), timeout=_SECONDS, metadata=metadata)
            await pending.read()
            pending.cancel()
        else:
            await channel.unary_unary(path, **how)(request_of(method), timeout=_SECONDS, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def tried(calling: Caller, stages: frozenset[str], who: tuple[str, ...] = WHO) -> list[Cell]:
    """Try the RPCs of these stages, as each of these callers."""
    return [
        Cell(
            f"{method.containing_service.full_name}/{method.name}",
            one,
            expected(method, one),
            await calling(one, method),
        )
        for method in methods()
        if stage_of(method) in stages
        for one in who
    ]


def _type_of(method: MethodDescriptor) -> type[Message]:
    module = import_module(method.input_type.file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    kind: type[Message] = getattr(module, method.input_type.name)
    return kind


def _name_collection(message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name in ("search", "answer") and field.type == FieldDescriptor.TYPE_MESSAGE:
            _name_collection(getattr(message, field.name))
        elif field.name == "collection":
            message.collection = COLLECTION
        elif field.name == "version" and field.type == FieldDescriptor.TYPE_STRING:
            message.version = f"{COLLECTION}-v1"
