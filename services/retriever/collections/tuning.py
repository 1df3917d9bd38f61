"""Tuning: changing how a version is kept and searched."""

from __future__ import annotations

from dataclasses import replace

from services.chassis.errors import FailedPrecondition
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.fields import FieldType
from services.retriever.layout import Layout
from services.retriever.store import Deadline, PassageStore
from sluice.type.v1 import layout_pb2

# The engine knows nothing of these: they go with each call.
_OURS = {"read_consistency", "hnsw_ef", "rescore", "oversampling", "tenant", "tenant_required"}


class Tuning:
    """Changes the layouts of versions."""

    def __init__(self, store: PassageStore, collections: Collections) -> None:
        self._store = store
        self._collections = collections

    async def tune(self, name: str, changes: layout_pb2.Layout, deadline: Deadline = None) -> CollectionInfo:
        """Change what is set in `changes`; return the version as it is then.

        Raises InvalidArgument for what is out of bounds, and FailedPrecondition (LAYOUT_FIXED) for what the engine
        cannot change.
        """
        info = await self._collections.get(name, deadline)
        layout = Layout.from_proto(changes, info.layout)
        changed = layout.changed(info.layout)
        if "tenant" in changed and layout.tenant:
            info = await self._declare_tenant(info, layout.tenant, deadline)
        if changed - _OURS:
            await self._store.tune(info.version, layout, deadline)
        if changed:
            await self._collections.keep(info.version, layout, deadline)
        return replace(info, layout=layout)

    async def _declare_tenant(self, info: CollectionInfo, tenant: str, deadline: Deadline) -> CollectionInfo:
        kind = info.schema.get(tenant, FieldType.KEYWORD)
        if kind is not FieldType.KEYWORD:
            raise FailedPrecondition(
                f"field {tenant!r} holds values of type {kind.value}; tenants are told apart by keywords",
                reason="WRONG_TYPE",
            )
        return await self._collections.declare_types(info, {tenant: kind}, deadline, tenant=tenant)
