"""Engines behind the port `PassageStore`; the only place that knows Qdrant.

The child of the embedded engine imports this package, too, so it names no client at the top: those take 2 s to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.retriever.engines.edge.store import EdgeStore
    from services.retriever.engines.server import ServerStore
    from services.retriever.metrics import RetrieverMetrics
    from services.retriever.settings import RetrieverSettings


async def open_store(settings: RetrieverSettings, metrics: RetrieverMetrics) -> ServerStore | EdgeStore:
    """Open the store that the settings name. A server need not be up yet; a data folder must be free."""
    if settings.qdrant_url:
        from services.retriever.engines.server import ServerStore  # noqa: PLC0415  see above

        return ServerStore(settings, metrics)
    from services.retriever.engines.edge.store import EdgeStore  # noqa: PLC0415  see above

    return await EdgeStore.open(settings, metrics)
