"""Monitor of the default collection and of the embedders of its model.

It needs no request, so that operators learn of a mismatch before users do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from services.chassis import logs, tracing
from services.chassis.errors import NotFound, SluiceError
from services.gateway.collections.embedders import Embedders, ModelEmbedder
from services.gateway.collections.store import Store
from services.gateway.metrics import GatewayMetrics
from sluice.type.v1 import collection_pb2

POLL_SECONDS = 10.0
# A stage that does not answer in this time is asked again at the next poll.
_DEADLINE_SECONDS = 2.0

_log = logs.get_logger("index")


class IndexMonitor:
    """Shows the default collection in metrics.

    Its clients have no breaker, because a poll is no use of a stage.
    """

    def __init__(
        self,
        collection: str,
        store: Store,
        embedders: Sequence[ModelEmbedder],
        metrics: GatewayMetrics,
    ) -> None:
        self._collection = collection
        self._store = store
        self._embedders = Embedders(embedders, store)
        self._mismatch = False
        self._shown: tuple[str, ...] = ()
        self._metrics = metrics
        metrics.fingerprint_mismatch.set(0)

    async def poll(self) -> None:
        """Check every 10 s until cancelled."""
        with tracing.untraced():
            while True:
                with contextlib.suppress(SluiceError):  # the last answer stays until a stage gives another
                    await self.check()
                await asyncio.sleep(POLL_SECONDS)

    async def check(self) -> None:
        """Update the metrics from the stages. Raises the error of the retriever."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        live = None
        with contextlib.suppress(NotFound):
            live = await self._store.collection(self._collection, deadline=deadline)
        self._show(live)
        served, unreachable = await self._embedders.served(deadline=deadline)
        mismatch = live is not None and all(model.fingerprint != live.model.fingerprint for model in served)
        if mismatch and unreachable:
            return  # one of these may serve it
        self._metrics.fingerprint_mismatch.set(mismatch)
        if mismatch != self._mismatch:
            self._mismatch = mismatch
            _log.warning("no embedder serves the index's model" if mismatch else "the index's model is served again")

    def _show(self, live: collection_pb2.CollectionVersion | None) -> None:
        self._metrics.index_passages.set(live.passage_count if live else 0)
        shown = (live.version, live.model.name, live.model.fingerprint) if live else ()
        if shown != self._shown:
            self._shown = shown
            self._metrics.index_info.clear()
            if shown:
                self._metrics.index_info.labels(self._collection, *shown).set(1)
