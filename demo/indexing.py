"""The corpus, stored through the gateway once."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable

from demo.corpus import Corpus, Passage
from sluice_client import AsyncClient, Document, Stage

_BATCH_SIZE = 64
# One batch is embedded while another is stored.
_CONCURRENCY = 2


async def collection_for(client: AsyncClient, corpus: Corpus) -> str:
    """Name the collection of a corpus under the models that serve."""
    config = await client.config()
    models = [
        model.fingerprint
        for stage in config.stages
        if stage.stage is Stage.EMBED
        for model in (stage.model, stage.token_model)
        if model is not None
    ]
    content = hashlib.sha256(" ".join([corpus.digest, *models]).encode()).hexdigest()
    return f"python-{sys.version_info.major}-{sys.version_info.minor}-{content[:8]}"


async def is_stored(client: AsyncClient, corpus: Corpus, collection: str) -> bool:
    """True if an earlier run stored all of it."""
    stored = (await client.config(collection=collection)).collection
    return stored is not None and stored.passage_count == len(corpus.passages)


async def store(
    client: AsyncClient, corpus: Corpus, collection: str, *, on_progress: Callable[[int], None] = lambda _count: None
) -> None:
    """Store the corpus; `on_progress` gets numbers of passages. Raises SluiceError."""
    await client.index_all(
        (document(passage) for passage in corpus.passages),
        collection=collection,
        batch_size=_BATCH_SIZE,
        concurrency=_CONCURRENCY,
        on_progress=lambda batch, _indexed: on_progress(len(batch)),
    )


def document(passage: Passage) -> Document:
    """A passage as it is stored."""
    return Document(passage.title, passage.title, passage.text, {"module": passage.module, "kind": passage.kind})
