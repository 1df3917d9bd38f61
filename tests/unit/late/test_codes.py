import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from services.late.codes import SCALE, ZERO, encode, similarity
from tests.maxsim import maxsim

DIMENSION = 128


def rows(count, seed):
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def cosines(one, other):
    one, other = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (one, other))
    return one @ other.T


@given(st.integers(1, 40), st.integers(1, 80), st.integers(0, 2**32 - 1))
def test_a_comparison_of_bytes_is_the_mean_of_the_best_cosines(asked, read, seed):
    query, passage = rows(asked, seed), rows(read, seed + 1)
    found = similarity(maxsim(encode(query), encode(passage)), asked, DIMENSION + 1)
    # A product of two rows is off by a deviation of 0.0016.
    assert abs(found - cosines(query, passage).max(axis=1).mean()) < 0.008


@given(arrays(np.float32, (3, 24), elements=st.floats(-1e3, 1e3, width=32)).filter(lambda all_: all_.any(axis=1).all()))
def test_every_row_of_bytes_has_the_same_sum(vectors):
    # Values beyond half are cut, as only rows of few dimensions have them.
    turned = np.abs(encode(vectors).astype(int) - ZERO).max(axis=1)
    sums = encode(vectors).sum(axis=1, dtype=int)
    assert all(sum_ == ZERO * 25 for sum_, most in zip(sums, turned, strict=True) if most < SCALE // 2)


def test_the_same_text_compared_with_itself_is_nearly_one():
    codes = encode(rows(32, 3))
    assert 0.995 < similarity(maxsim(codes, codes), 32, DIMENSION + 1) <= 1.005


def test_a_single_great_dimension_is_not_cut():
    vectors = np.full((1, 128), 0.01, np.float32)
    vectors[0, 71] = 1.0
    codes = encode(vectors)
    assert similarity(maxsim(codes, codes), 1, codes.shape[1]) == pytest.approx(1.0, abs=0.005)
