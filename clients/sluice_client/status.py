"""The configuration in effect behind a gateway, and explanations of its access control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.gateway.v1 import access_pb2, access_pb2_grpc
from sluice.gateway.v1 import status_pb2 as pb
from sluice.type.v1.features_pb2 import Features
from sluice_client.answers import Stage
from sluice_client.channel import Caller
from sluice_client.messages import Received, fill
from sluice_client.versions import CollectionVersion, ModelInfo


@dataclass(frozen=True, slots=True)
class StageConfig(Received, proto=pb.StageConfig):
    """One stage as it is now."""

    stage: Stage
    address: str
    """The address that the gateway calls."""
    serving: bool
    problem: str
    """Reason for not serving; empty when it serves."""
    model: ModelInfo | None
    """The model that serves; None where the stage has none, or did not tell."""
    token_model: ModelInfo | None = None
    """The model of token vectors; None where the stage has none."""


@dataclass(frozen=True, slots=True)
class Config(Received, proto=pb.GetConfigResponse):
    """The configuration in effect."""

    default_features: Features
    """The flags of a request that sets none, all of them set."""
    stages: Sequence[StageConfig]
    collection: CollectionVersion | None
    """The live version of the collection that was asked for; None where there is none yet."""
    release: str
    """Release of the gateway."""


@dataclass(frozen=True, slots=True)
class AccessCondition(Received, proto=access_pb2.AccessCondition):
    """Metadata that documents must have for a caller to see or change them."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class AccessDecision(Received, proto=access_pb2.CheckAccessResponse):
    """A decision of the gateway on a call that was not made."""

    allowed: bool
    policies: Sequence[str]
    """Ids of the policies that decided; none where no policy permits the call."""
    conditions: Sequence[AccessCondition]
    """Conditions on the documents of the call; all must hold."""
    identity: str
    roles: Sequence[str]
    tenant: str
    """Tenant of the caller; empty for none."""
    action: str
    """The call, as policies name it."""
    collection: str
    """The collection; empty for a call that is about none."""


class Explaining(Caller):
    """The part of a client that asks who may do what."""

    async def check_access(
        self,
        identity: str,
        method: str,
        *,
        collection: str = "",
        roles: Sequence[str] = (),
        tenant: str = "",
        timeout: float | None = None,
    ) -> AccessDecision:
        """Ask whether a caller may do something, and why. For operators and auditors.

        Args:
            identity: The caller, as `key:nightly-index`, `dns:gateway` or `jwt:alice`; the name of a key will do.
            method: A method, as `Search`, or a service and a method, as `RolloutService/KillFeature`.
            collection: The collection; the gateway's default if empty.
            roles: Roles of a caller that the gateway's file of callers does not have.
            tenant: Tenant of such a caller.
            timeout: Deadline in seconds.
        """
        request = fill(
            access_pb2.CheckAccessRequest(),
            identity=identity,
            method=method,
            collection=collection,
            roles=roles,
            tenant=tenant,
        )
        stub = self._stub(access_pb2_grpc.AccessServiceStub)
        return AccessDecision.from_proto(await self._call(stub.CheckAccess, request, timeout))
