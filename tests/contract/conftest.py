"""The stages in this process, on real sockets: pseudo-embeddings, templates, Qdrant's embedded engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.chassis.client import StageChannel
from services.chassis.server import serving
from tests.registry import STAGES

# Reading WordNet takes seconds, and the templates of the expander do without it.
_WITHOUT_WORDNET = {"wordnet_dir": Path("/there/is/no/wordnet")}


@dataclass(frozen=True)
class Platform:
    """Channels to the running stages, by the name of the stage."""

    channels: dict[str, StageChannel]

    def __getitem__(self, stage: str) -> StageChannel:
        return self.channels[stage]


async def start(stack: AsyncExitStack, only: set[str], **settings: dict[str, Any]) -> Platform:
    """Start stages, the gateway last and pointed at the others."""
    channels: dict[str, StageChannel] = {}
    for stage in STAGES:
        if stage.name not in only:
            continue
        given = settings.get(stage.name, _WITHOUT_WORDNET if stage.name == "expander" else {})
        if stage.name == "gateway":
            given = {f"{name}_address": channel.address for name, channel in channels.items()} | given
        loaded = stage.load_settings(**given)
        composed = await stack.enter_async_context(stage.compose(loaded))
        server = await stack.enter_async_context(serving(composed, loaded))
        channels[stage.name] = await stack.enter_async_context(StageChannel(f"127.0.0.1:{server.port}"))
    return Platform(channels)


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Platform]:
    """The stages of a search without the reranker, whose model takes seconds to load."""
    async with AsyncExitStack() as stack:
        yield await start(
            stack, {"embedder", "expander", "retriever", "gateway"}, retriever={"qdrant_path": tmp_path / "qdrant"}
        )
