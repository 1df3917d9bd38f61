"""The questions of a collection, asked of the running gateway one after the other."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bench.quality.beir import Dataset
from bench.quality.configs import Config
from bench.quality.kept import Kept
from deploy.local.paths import ROOT
from services.chassis.errors import StartupError
from sluice_client import Answer, AsyncClient, Document, Outcome, Stage
from sluice_client.errors import SluiceError

DEPTH = 100
"""Results asked for: as deep as the deepest measure."""

ENVIRONMENT = {
    "LOG_LEVEL": "WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    # Every question is to cost what a new one costs, whichever configuration was asked before.
    "CACHE_ENTRIES": "0",
    # One caller and one replica of each stage: there is no need to reconnect to find others.
    "MAX_CONNECTION_AGE_SECONDS": "86400",
}
"""Of the stack that is asked, over its profile."""

_PATIENCE_SECONDS = 300.0
_ATTEMPTS = 60
_WELL = frozenset({"FEATURE_OFF", "NO_CANDIDATES"})
_LEXICAL_SETTINGS = ("LEXICAL_K1", "LEXICAL_B", "LEXICAL_AVERAGE_LENGTH", "LEXICAL_TITLE_WEIGHT")


@dataclass(frozen=True)
class Asked:
    """Results of one configuration."""

    run: Mapping[str, list[str]]
    """Ids of documents, best first, by query."""
    milliseconds: Mapping[str, float]
    """From question to answer, by query."""


def code_digest() -> str:
    """Change with the code of the services: rankings of other code are not these."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "services").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


async def models_of(client: AsyncClient) -> str:
    """Models that serve, by fingerprint."""
    return " ".join((await _fingerprints(client)).values())


async def _fingerprints(client: AsyncClient) -> dict[Stage, str]:
    """Fingerprints of the models of both model stages; on a busy machine one may not tell at the first time."""
    for _ in range(_ATTEMPTS):
        config = await client.config()
        found = {stage.stage: stage.model.fingerprint for stage in config.stages if stage.model}
        if found.keys() >= {Stage.EMBED, Stage.RERANK}:
            return found
        await asyncio.sleep(1)
    raise StartupError("embedder or reranker does not tell its model", remedy="Read their logs in build/run.")


async def store(
    client: AsyncClient,
    dataset: Dataset,
    settings: Mapping[str, str],
    on_progress: Callable[[int], None],
    on_rejected: Callable[[Document, SluiceError], None],
    made_by: str = "",
) -> str:
    """Store the documents through the gateway unless they are there; the name of their collection.

    A collection belongs to the documents, the model and the lexical settings that it was made with, and to `made_by`:
    whatever else its content depends on.
    """
    fingerprint = (await _fingerprints(client))[Stage.EMBED]
    parts = [dataset.corpus_digest, fingerprint, *(settings[name] for name in _LEXICAL_SETTINGS)]
    parts += [made_by] if made_by else []
    collection = f"{_plain(dataset.name)}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"
    whole = [document for document in dataset.documents if document.title.strip() or document.text.strip()]
    stored = (await client.config(collection=collection)).collection
    if stored and stored.passage_count == len(whole):
        on_progress(len(dataset.documents))
        return collection
    await client.index_all(
        dataset.documents,
        collection=collection,
        batch_size=64,
        on_progress=lambda batch, _indexed: on_progress(len(batch)),
        on_rejected=on_rejected,
    )
    return collection


async def ask(
    client: AsyncClient,
    collection: str,
    queries: Iterable[tuple[str, str]],
    config: Config,
    kept: Kept,
    on_progress: Callable[[], None],
) -> Asked:
    """Ask the queries (id and text) that were not answered yet, one after the other.

    Raises StartupError where a stage that is on did not do its part.
    """
    run: dict[str, list[str]] = {line["query"]: line["results"] for line in kept.lines}
    milliseconds: dict[str, float] = {line["query"]: line["ms"] for line in kept.lines}
    wanted = dict(queries)
    for query, text in wanted.items():
        if query not in run:
            started = time.perf_counter()
            answer = await client.search(
                text,
                limit=DEPTH,
                collection=collection,
                features=config.features,
                policies=config.policies,
                timeout=_PATIENCE_SECONDS,
            )
            milliseconds[query] = (time.perf_counter() - started) * 1000
            check(answer)
            run[query] = [result.passage.id for result in answer.results]
            kept.add(query=query, results=run[query], ms=round(milliseconds[query], 2))
        on_progress()
    return Asked({query: run[query] for query in wanted}, {query: milliseconds[query] for query in wanted})


def check(answer: Answer) -> None:
    for report in answer.stages:
        if report.outcome is not Outcome.RAN and report.reason not in _WELL:
            raise StartupError(
                f"the stage {report.stage} {report.outcome}: {report.reason} {report.detail}".rstrip(),
                remedy="A figure would hide that. Set the stage right (`make setup` fetches models and WordNet) and "
                "start again: what was answered so far is kept.",
            )


def _plain(name: str) -> str:
    return "".join(letter if (letter.isalnum() and letter.isascii()) or letter in "_-" else "-" for letter in name)[:64]
