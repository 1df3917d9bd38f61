"""AccessService: who may do what, and by which policies."""

# ruff: noqa: N802, D102  # gRPC's names; the proto says what each RPC does

from __future__ import annotations

from typing import Any

import grpc

from services.chassis.access.callers import Callers
from services.chassis.access.gate import rules_of
from services.chassis.access.identity import Caller
from services.chassis.access.rpcs import rpcs_named
from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.validation import split_version
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import access_pb2 as pb
from sluice.gateway.v1 import access_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class AccessServicer(access_pb2_grpc.AccessServiceServicer):
    """Decides on calls without making them."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings

    async def CheckAccess(self, request: pb.CheckAccessRequest, context: Context) -> pb.CheckAccessResponse:
        rules = rules_of()
        if rules is None:
            raise FailedPrecondition(
                "access control of this gateway is off; every caller may do everything", reason="ACCESS_OFF"
            )
        caller = _caller(request, rules.callers)
        found = rpcs_named(request.method)
        if not found:
            raise InvalidArgument("method", f"{request.method!r} is no method; send one as Search or KillFeature")
        rpc = found[0]
        collection = None
        if rpc.collection_field:
            collection, _ = split_version(request.collection or self._settings.qdrant_collection)
        decision = rules.policy.decide(caller, rpc, collection)
        return pb.CheckAccessResponse(
            allowed=decision.allowed,
            policies=decision.policies,
            conditions=[pb.AccessCondition(field=one.field, value=one.value) for one in decision.conditions],
            identity=caller.identity,
            roles=sorted(caller.roles),
            tenant=caller.tenant,
            action=rpc.action,
            collection=collection or "",
        )


def _caller(request: pb.CheckAccessRequest, callers: Callers) -> Caller:
    if not request.identity:
        raise InvalidArgument("identity", "is empty; name a caller, as key:nightly-index")
    if request.roles:
        return callers.of_claims(request.identity, request.roles, request.tenant, {})
    known = callers.named(request.identity)
    if known is None:
        raise InvalidArgument(
            "identity",
            f"{request.identity!r} is not in AUTH_CALLERS; the roles of a token's caller have to be sent as well",
        )
    return known
