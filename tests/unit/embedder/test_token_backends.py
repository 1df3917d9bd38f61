from __future__ import annotations

from pathlib import Path

import numpy as np

from services.embedder.backends import TextKind
from services.embedder.token_backends import MOST_ROWS, TokenBackend, load_token_backend
from services.inference.models.runtime import ModelOptions
from services.late.codes import ZERO, similarity
from tests.maxsim import maxsim

OPTIONS = ModelOptions(cache_dir=Path("/nonexistent"))


def pseudo(passage_tokens: int = 180) -> TokenBackend:
    backend = load_token_backend("any", OPTIONS, passage_tokens, pseudo=True)
    assert backend is not None
    return backend


def test_without_a_name_there_is_no_token_model() -> None:
    assert load_token_backend("", OPTIONS, 180, pseudo=True) is None


def test_pseudo_token_vectors_say_that_they_are_pseudo() -> None:
    model = pseudo().model
    assert (model.pseudo, model.name, model.backend, model.dimension) == (True, "pseudo-tokens-64", "pseudo", 65)


def test_the_score_of_pseudo_vectors_is_the_share_of_the_querys_words() -> None:
    backend = pseudo()
    (query,) = backend.embed(backend.tokenize(["Old ships at sea"], TextKind.QUERY))
    passages = backend.embed(backend.tokenize(["at sea, old ships", "old ships", "a lamp", ""], TextKind.DOCUMENT))
    whole, half, none, empty = (similarity(maxsim(query, passage), len(query), 65) for passage in passages)
    assert whole > 0.99
    assert whole > half > max(none, empty)


def test_a_pseudo_passage_has_a_row_for_each_different_word_up_to_the_most() -> None:
    backend = pseudo()
    texts = ["ship " * 100, " ".join(f"w{number}" for number in range(100)), "…"]
    tokenized = backend.tokenize(texts, TextKind.DOCUMENT)
    assert [text.truncated for text in tokenized] == [False, True, False]
    codes = backend.embed(tokenized)
    assert [rows.shape for rows in codes] == [(1, 65), (MOST_ROWS, 65), (1, 65)]
    assert all((rows.sum(axis=1, dtype=int) == ZERO * 65).all() for rows in codes)


def test_pseudo_vectors_do_not_depend_on_their_batch() -> None:
    backend = pseudo()
    tokenized = backend.tokenize(["a ship", "the sea", "a lamp at sea"], TextKind.DOCUMENT)
    for text, codes in zip(tokenized, backend.embed(tokenized), strict=True):
        np.testing.assert_array_equal(codes, backend.embed([text])[0])
