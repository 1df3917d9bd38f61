"""Passages in a Qdrant server or cluster, over its gRPC protocol."""

from __future__ import annotations

from services.retriever.engines.server.store import ServerStore

__all__ = ["ServerStore"]
