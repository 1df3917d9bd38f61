from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.late.pooling import Vectors, pool


def unit_rows(count: int, seed: int, dimension: int = 16) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_as_many_vectors_remain_as_asked_for_and_none_is_longer_than_the_longest(
    rows: int, groups: int, seed: int
) -> None:
    pooled = pool(unit_rows(rows, seed), groups)
    assert pooled.shape == (min(rows, groups), 16)
    assert np.linalg.norm(pooled, axis=1).max() < 1 + 1e-5


def test_vectors_that_are_alike_become_their_mean() -> None:
    kinds = np.eye(16, dtype=np.float32)[:3]
    rows = np.concatenate([kinds, kinds * 0.9, kinds * 1.1])
    pooled = pool(rows, 3)
    np.testing.assert_allclose(pooled[pooled.argmax(axis=1).argsort()], kinds, atol=1e-6)


def test_one_group_is_the_mean_of_all() -> None:
    rows = unit_rows(9, 1)
    np.testing.assert_allclose(pool(rows, 1), rows.mean(axis=0, keepdims=True), atol=1e-6)


def test_vectors_that_are_no_more_than_the_groups_stay_as_they_are() -> None:
    rows = unit_rows(5, 2)
    assert pool(rows, 5) is rows
