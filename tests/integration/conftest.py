"""Real models for the tests of this folder, each loaded once."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from services.embedder.backends import EmbeddingBackend, load_embedding_backend
from services.embedder.token_backends import TokenBackend, load_token_backend
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.runtime import ModelOptions
from services.reranker.backends import CrossEncoderBackend, load_cross_encoder_backend
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.documents import Passage
from services.retriever.store import PassageStore
from tests.integration.engines import ENGINES, engine
from tests.integration.shelf import MODEL, PASSAGES, Shelf

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
RERANK_MODEL = "ms-marco-MiniLM-L-12-v2"
TOKEN_MODEL = "answerai-colbert-small-v1"
ODD_TEXTS = [
    "",
    " ",
    "a",
    "naïve café",
    "東京タワーの高さ",
    "😀😀😀",
    "\t\n",
    "İstanbul ﬁnd ½ €",
    "x" * 3000,
    "0 " * 900,
]


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> ModelOptions:
    """Options of the tests: fp32 in ONNX Runtime, models from tools/fetch_models.py, a cache of their own."""
    return ModelOptions(backend="onnx", model_dir=default_cache_dir(), cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def embedder(options: ModelOptions) -> EmbeddingBackend:
    """The fast backend with the real all-MiniLM-L6-v2."""
    return load_embedding_backend(EMBEDDING_MODEL, options)


@pytest.fixture(scope="session")
def cross_encoder(options: ModelOptions) -> CrossEncoderBackend:
    """The fast backend with the real ms-marco-MiniLM-L-12-v2."""
    return load_cross_encoder_backend(RERANK_MODEL, options)


@pytest.fixture(scope="session")
def token_model(options: ModelOptions) -> TokenBackend:
    """The fast backend with the real answerai-colbert-small-v1."""
    backend = load_token_backend(TOKEN_MODEL, options, 180, pseudo=False)
    assert backend is not None
    return backend


@pytest.fixture(scope="session")
def mixed_texts() -> list[str]:
    """100 texts from 4 to 400 words and odd ones: the documentation of Python, cut by chance but always the same."""
    chance = random.Random(7)
    words = " ".join(topics.values()).split()
    lengths = [int(4 * 100 ** chance.random()) for _ in range(100 - len(ODD_TEXTS))]
    starts = [chance.randrange(len(words) - 400) for _ in lengths]
    return [
        *ODD_TEXTS,
        *(" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what needs a store on every engine; what is marked so, on a cluster, too."""
    chosen = any("store" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "store" in metafunc.fixturenames and not chosen:
        cluster = ["cluster"] if metafunc.definition.get_closest_marker("cluster") else []
        metafunc.parametrize("store", [*ENGINES, *cluster], indirect=True)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PassageStore]:
    """Each engine, one after the other; see `engine`."""
    async with engine(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def shelf(store: PassageStore) -> Shelf:
    """The retriever's domain over the store."""
    return Shelf(store)


@pytest.fixture
async def new_name(store: PassageStore) -> AsyncIterator[Callable[[], str]]:
    """Makes names of collections; all their versions go away with the test."""
    names: list[str] = []

    def new() -> str:
        names.append(f"test-{uuid.uuid4()}")
        return names[-1]

    yield new
    for version in (await store.catalogue(None)).versions:
        if version.startswith(tuple(names)):
            await store.drop(version, None)


@pytest.fixture
async def new_collection(shelf: Shelf, new_name: Callable[[], str]) -> Callable[..., Awaitable[str]]:
    """Creates collections, of which it returns the first version; they go away with the test."""

    async def create(model: CollectionModel = MODEL, passages: Sequence[Passage] = ()) -> str:
        version = (await shelf.collections.create(new_name(), model)).version
        if passages:
            await shelf.put(version, passages, model)
        return version

    return create


@pytest.fixture
async def collection(new_collection: Callable[..., Awaitable[str]]) -> str:
    """A version with four passages."""
    return await new_collection(passages=PASSAGES)
