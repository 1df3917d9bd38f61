"""What replaces the embedded engine's own scoring and storage does the same as they do."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client.http.models import Distance, SparseVector
from qdrant_client.local import local_collection
from qdrant_client.local.distances import calculate_distance
from qdrant_client.local.sparse_distances import calculate_distance_sparse as engines_own

from services.retriever import embedded
from services.retriever.embedded import Postings

values = st.floats(-100, 100, allow_nan=False)
sparse_vectors = st.dictionaries(st.integers(0, 12) | st.just(2**32 - 1), values, max_size=6).map(
    lambda weights: SparseVector(indices=sorted(weights), values=[weights[term] for term in sorted(weights)])
)


@settings(deadline=None)
@given(st.lists(sparse_vectors, max_size=8), st.lists(st.tuples(sparse_vectors, sparse_vectors), max_size=4))
def test_sparse_scores_are_the_engine_s_own_to_the_last_bit(vectors, steps):
    """Also while passages are replaced and added between the queries."""
    for replacement, query in steps:
        if vectors:
            vectors[len(vectors) // 2] = replacement
        vectors.append(replacement)
        for empty_is_zero in (False, True):
            ours = Postings.scores_of_all(query, vectors, empty_is_zero=empty_is_zero)
            theirs = engines_own(query, vectors, empty_is_zero)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("distance", list(Distance))
def test_dense_scores_are_the_engine_s_own(distance):
    random = np.random.default_rng(7)
    vectors = random.standard_normal((100, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[3].astype(np.float64)
    ours, theirs = (score(query, vectors.copy(), distance) for score in (embedded.dense_scores, calculate_distance))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_collections_take_turns_without_mixing():
    query = SparseVector(indices=[1], values=[1.0])
    collections = [[SparseVector(indices=[1], values=[float(number)])] for number in range(10)]
    for _ in range(2):
        for number, vectors in enumerate(collections):
            assert Postings.scores_of_all(query, vectors).tolist() == [float(number)]


def test_the_engine_still_has_the_names_that_are_replaced():
    names = ("CollectionPersistence", "calculate_distance", "calculate_distance_sparse")
    assert all(hasattr(local_collection, name) for name in names)
    embedded.tune()
    assert local_collection.CollectionPersistence is embedded.Storage


WRITE_AND_DIE = """
import asyncio, os, pathlib, signal, sys
import numpy as np
from prometheus_client import CollectorRegistry
from services.retriever.backends import EmbeddedQdrant
from services.retriever.index import CollectionModel, Index, Passage
from services.retriever.lexical import Bm25
from services.retriever.metrics import RetrieverMetrics

async def main():
    qdrant = await EmbeddedQdrant.open(pathlib.Path(sys.argv[1]), RetrieverMetrics(CollectorRegistry()))
    index = Index(qdrant, RetrieverMetrics(CollectorRegistry()), bm25=Bm25(1.2, 0.75, 100))
    if sys.argv[2] == "write":
        await index.create_collection("docs", CollectionModel("m", "m@1", 2, "fp32"))
        passages = [Passage(str(n), f"word{n}", vector=np.ones(2, np.float32)) for n in range(300)]
        await index.upsert("docs", passages, model_fingerprint="m@1")
        os.kill(os.getpid(), signal.SIGKILL)
    print((await index.get_collection("docs")).passage_count)
    await qdrant.close()

asyncio.run(main())
"""


def test_what_was_stored_survives_the_death_of_the_process(tmp_path):
    def run(step):
        command = [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path), step]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("write").returncode == -signal.SIGKILL
    assert run("read").stdout.strip() == "300"
