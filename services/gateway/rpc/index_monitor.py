"""Keeps looking at the default collection: which version is live, by which model, and whether an embedder serves it.

Nobody has to ask a question first, so that operators learn of a mismatch before users do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from services.chassis import logs, tracing
from services.chassis.errors import SluiceError
from services.gateway import metrics
from services.gateway.collections.embedders import Embedders
from services.gateway.rpc.stage_clients import CollectionCard, EmbedderClient, RetrieverClient

LOOK_SECONDS = 10.0
# A stage that does not say in this time what it has is looked at again the next time.
_PATIENCE_SECONDS = 2.0

_log = logs.get_logger("watching")


class IndexWatch:
    """Shows the default collection in metrics. Its clients have no breaker: looking at a stage is no use of it."""

    def __init__(self, collection: str, retriever: RetrieverClient, embedders: Sequence[EmbedderClient]) -> None:
        self._collection = collection
        self._retriever = retriever
        self._embedders = Embedders(embedders, retriever)
        self._mismatch = False
        self._shown: tuple[str, ...] = ()
        metrics.fingerprint_mismatch.set(0)

    async def keep_looking(self) -> None:
        """Looks for ever."""
        with tracing.untraced():
            while True:
                with contextlib.suppress(SluiceError):  # what was seen last stays, until a stage says otherwise
                    await self._look()
                await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        card = await self._retriever.collection(self._collection, deadline=deadline)
        self._show(card)
        served, unreachable = await self._embedders.served(deadline=deadline)
        mismatch = card is not None and all(model.fingerprint != card.model_fingerprint for model in served)
        if mismatch and unreachable:
            return  # one of these may serve it
        metrics.fingerprint_mismatch.set(mismatch)
        if mismatch != self._mismatch:
            self._mismatch = mismatch
            _log.warning("no embedder serves the index's model" if mismatch else "the index's model is served again")

    def _show(self, card: CollectionCard | None) -> None:
        metrics.index_passages.set(card.passage_count if card else 0)
        version = (card.index_version, card.model, card.model_fingerprint) if card else ()
        if version != self._shown:
            self._shown = version
            metrics.index_info.clear()
            if version:
                metrics.index_info.labels(self._collection, *version).set(1)
