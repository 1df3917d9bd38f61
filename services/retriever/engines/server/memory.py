"""Notes that a store keeps of versions, so that not every call has to ask for them."""

from __future__ import annotations

from typing import NamedTuple

from qdrant_client import grpc as api

from services.retriever.engines.server.frequencies import Table
from services.retriever.engines.server.layouts import counts_whole
from services.retriever.engines.server.values import values_of
from services.retriever.layout import Layout


class Remembered(NamedTuple):
    """A version as it was described last."""

    consistency: api.ReadConsistency | None
    """Replicas that have to agree on what is read."""
    table: Table | None
    """Frequencies of its terms; None where Qdrant counts them itself."""


_UNKNOWN = Remembered(None, None)


class Memory:
    """Versions that were described."""

    def __init__(self) -> None:
        self._versions: dict[str, Remembered] = {}

    def __contains__(self, version: str) -> bool:
        return version in self._versions

    def __getitem__(self, version: str) -> Remembered:
        return self._versions.get(version, _UNKNOWN)

    def learn(self, version: str, info: api.CollectionInfo) -> None:
        """Remember how a version is described now."""
        table = None
        if not counts_whole(info):
            table = self[version].table or Table()
            table.seen(info.points_count)
        agreeing = Layout.from_notes(values_of(info.config.metadata)).read_consistency
        self._versions[version] = Remembered(api.ReadConsistency(factor=agreeing) if agreeing else None, table)

    def changed(self, version: str, passages: int) -> None:
        """Note that so many passages of a version were written or removed."""
        if (table := self[version].table) is not None:
            table.changed(passages)

    def forget(self, version: str) -> None:
        """Forget a version that is gone."""
        if (table := self[version].table) is not None:
            table.close()
        self._versions.pop(version, None)

    def close(self) -> None:
        """Forget all versions."""
        for version in list(self._versions):
            self.forget(version)
