"""A stack of real processes, and collections with token vectors that are indexed once and kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bench.quality import asking
from bench.quality.beir import Dataset
from deploy.local import LocalStack
from deploy.local.paths import BUILD
from deploy.local.profiles import load_profile
from deploy.local.progress import starting
from services.chassis.client import StageChannel
from services.chassis.errors import StartupError
from services.late.codes import encode
from sluice.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from sluice_client import AsyncClient

PROFILE = "development"
DATA = BUILD / "data" / "rerank"
ENVIRONMENT = {**asking.ENVIRONMENT, "TOKEN_VECTORS": "1"}
_PATIENCE_SECONDS = 30.0
# Token vectors of another format are of no use.
_FORMAT = hashlib.sha256(encode(np.eye(4, 8, dtype=np.float32)).tobytes()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Platform:
    """A stack that serves, and what was stored in it."""

    stack: LocalStack
    client: AsyncClient
    settings: Mapping[str, str]
    token_model: str
    """Fingerprint of the model of the token vectors, with that of their format."""

    async def stored(self, dataset: Dataset, progress: Progress) -> str:
        """Index a collection unless an earlier run did; its name."""
        bar = progress.add_task(f"{dataset.name}: index", total=len(dataset.documents))
        return await asking.store(
            self.client,
            dataset,
            self.settings,
            on_progress=lambda count: progress.advance(bar, count),
            on_rejected=lambda document, error: progress.console.print(
                f"[dim]{dataset.name}: document {document.id!r} is not stored: {error.message}[/]", highlight=False
            ),
            made_by=self.token_model,
        )

    def size_on_disk(self, collections: Iterable[str], part: str) -> int:
        """Bytes that the engine has allocated below folders of this name, in the versions of these collections."""
        versions = [version for name in collections for version in self.stack.data.rglob(f"{name}-v*")]
        folders = [folder for version in versions for folder in version.rglob(part)]
        files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return sum(path.stat().st_blocks * 512 for path in files)


@asynccontextmanager
async def platform(console: Console) -> AsyncIterator[Platform]:
    """Start the stack. Raises StartupError where it has no model of token vectors."""
    settings = {**load_profile(PROFILE), **ENVIRONMENT}
    settings |= {name: os.environ[name] for name in settings if name in os.environ}
    with starting(console) as on_serving:
        stack = LocalStack(name="rerank", profile=PROFILE, data=DATA, environment=ENVIRONMENT, on_serving=on_serving)
        await stack.__aenter__()
    try:
        token_model = await _token_model(stack.address("embedder"))
        async with AsyncClient(stack.address("gateway"), timeout=60, index_timeout=600) as client:
            yield Platform(stack, client, settings, token_model)
    finally:
        await stack.stop()


async def _token_model(embedder: str) -> str:
    async with StageChannel(embedder) as channel:
        get_model = embedder_pb2_grpc.EmbedderServiceStub(channel.channel).GetModel
        deadline = time.monotonic() + _PATIENCE_SECONDS
        model = await channel.call(get_model, embedder_pb2.GetModelRequest(), deadline=deadline)
    if not model.HasField("token_model"):
        raise StartupError(
            "the embedder serves no model of token vectors",
            remedy="Set TOKEN_MODEL, and run `make setup`, which fetches answerai-colbert-small-v1.",
        )
    return f"{model.token_model.fingerprint} {_FORMAT}"
