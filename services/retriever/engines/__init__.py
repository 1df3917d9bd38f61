"""Engines behind the port `PassageStore`; the only place that knows Qdrant."""

from __future__ import annotations

from services.retriever.engines.embedded import EmbeddedStore
from services.retriever.engines.server import ServerStore
from services.retriever.metrics import RetrieverMetrics
from services.retriever.settings import RetrieverSettings


async def open_store(settings: RetrieverSettings, metrics: RetrieverMetrics) -> ServerStore | EmbeddedStore:
    """Open the store that the settings name. A server need not be up yet; a data folder must be free."""
    if settings.qdrant_url:
        return ServerStore(settings, metrics)
    return await EmbeddedStore.open(settings, metrics)
