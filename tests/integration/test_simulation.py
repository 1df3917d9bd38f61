"""The simulation of `bench.quality` does what the retriever does: the same order and scores as Qdrant's own engine."""

import random

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from bench.quality.simulate import FirstStage
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Passage
from services.retriever.engines import open_store
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics
from services.retriever.passages import Passages
from services.retriever.search.fusion import Found, fuse
from services.retriever.search.searches import QueryVariant
from services.retriever.settings import RetrieverSettings

BM25 = Bm25(k1=0.9, b=0.6, average_length=20, title_weight=2.5)
MODEL = CollectionModel(name="random", fingerprint="random@1", dimension=8, precision="fp32")
WORDS = [f"word{number}" for number in range(60)]


@pytest.mark.parametrize(("seed", "dense_weight", "lexical_weight"), [(2, 1.0, 1.0), (10, 1.0, 0.5), (61, 0.3, 2.0)])
async def test_the_simulated_first_stage_ranks_and_scores_as_qdrant_does(tmp_path, seed, dense_weight, lexical_weight):
    chance = random.Random(seed)
    vectors = np.random.default_rng(seed).normal(size=(200, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Every length is another, so that no two passages have the same score by words.
    texts = [" ".join(chance.choices(WORDS, k=5 + place)) for place in range(len(vectors))]
    titles = [" ".join(chance.choices(WORDS, k=place % 3)) for place in range(len(vectors))]
    variants = [QueryVariant(" ".join(chance.choices(WORDS, k=4)), vectors[place], 0.3**place) for place in range(3)]

    metrics = RetrieverMetrics(CollectorRegistry())
    store = await open_store(RetrieverSettings(qdrant_path=tmp_path / "qdrant"), metrics)
    collections = Collections(store, BM25)
    index = Passages(store, collections, metrics, fusion_depth=50)
    await collections.create("random", MODEL)
    passages = [
        Passage(str(place), text, title, vector=vectors[place])
        for place, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]
    await index.upsert("random", passages, model_fingerprint="random@1")
    found_by_qdrant = await index.search(
        "random",
        variants,
        limit=40,
        dense_weight=dense_weight,
        lexical_weight=lexical_weight,
        model_fingerprint="random@1",
    )
    await store.close()

    stage = FirstStage(list(zip(titles, texts, strict=True)), vectors)
    searches = []
    for variant in variants:
        found = stage.dense(variant.vector, 50), stage.lexical(variant.text, BM25, 50)
        for scored, weight in zip(found, (dense_weight, lexical_weight), strict=True):
            searches.append(Found(scored, variant.weight * weight, whole=len(scored) < 50))
    simulated = fuse(searches)
    assert [candidate.score for candidate in found_by_qdrant.candidates] == pytest.approx(
        [one.score for one in simulated[:40]], rel=1e-4
    )
    # Equal scores may be in any order.
    theirs = {candidate.passage.id: candidate.score for candidate in found_by_qdrant.candidates}
    ours = {str(one.id): one.score for one in simulated}
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, rel=1e-4)
