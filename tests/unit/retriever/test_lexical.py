import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.lexical import Bm25, query_vector

BM25 = Bm25(k1=1.2, b=0.75, average_length=10)


def dot(query: str, passage: str, bm25: Bm25 = BM25) -> float:
    weights = dict(zip(*bm25.passage_vector(passage), strict=True))
    return sum(count * weights.get(term, 0.0) for term, count in zip(*query_vector(query), strict=True))


def finds(query: str, passage: str) -> bool:
    return dot(query, passage) > 0


@pytest.mark.parametrize(
    ("query", "passage"),
    [
        ("concurrent.futures.ThreadPoolExecutor.submit", "see concurrent.futures.ThreadPoolExecutor.submit."),
        ("threadpoolexecutor", "concurrent.futures.ThreadPoolExecutor.submit"),
        ("thread pools", "ThreadPoolExecutor"),
        ("reading csv", "read_csv_file"),
        ("http", "HTTPServer"),
        ("initialise", "initialised"),
        ("init", "__init__"),
        ("Python", "PYTHON'S"),
        ("3.11", "since version 3.11."),
        ("ÜBER", "über"),
        ("caf\u00e9", "cafe\u0301"),
        ("ﬁles", "file"),
        ("функция", "Функция"),
    ],
)
def test_a_query_finds_what_is_spelled_otherwise(query, passage):
    assert finds(query, passage)
    assert finds(passage, query)


@pytest.mark.parametrize(
    ("query", "passage"),
    [("3.11", "3 or 11"), ("thread", "threadbare"), ("to be or not to be", "to be or not to be"), ("", "word")],
)
def test_a_query_does_not_find_what_means_something_else(query, passage):
    assert not finds(query, passage)


def test_a_whole_identifier_beats_its_parts():
    query = "os.path.join"
    assert dot(query, "os.path.join joins paths") > dot(query, "os and path: join is a word of str")


@pytest.mark.parametrize("text", ["", "   ", "how to do this", "...", "___", "A" * 1000])
def test_text_without_words_has_an_empty_vector(text):
    assert query_vector(text) == BM25.passage_vector(text) == ([], [])


def test_a_passage_is_weighed_as_the_formula_says():
    # terms: fish fish bone -> tf 2 and 1, length 3
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / 10)
    assert sorted(BM25.passage_vector("fish and fish bones").values) == pytest.approx(
        sorted([2 * 2.2 / (2 + norm), 2.2 / (1 + norm)])
    )


@given(st.integers(1, 5))
def test_a_word_of_the_title_counts_as_if_it_were_said_so_often(weight):
    weighing = Bm25(k1=1.2, b=0.75, average_length=10, title_weight=weight)
    said = BM25.passage_vector("fish bones " + "fishing rod " * weight)
    assert weighing.passage_vector("fish bones", "fishing rod") == said


def test_a_repeated_word_of_the_query_counts_as_often():
    assert query_vector("fish fish bone").values in ([1.0, 2.0], [2.0, 1.0])


def test_term_indices_are_the_same_in_every_process_and_release():
    """They are stored; were they to change, nothing indexed before could be found by its words."""
    assert query_vector("submit").indices == [SUBMIT]
    script = "from services.retriever.lexical import query_vector; print(query_vector('submit').indices[0])"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(other.stdout) == SUBMIT


SUBMIT = 358538631


@given(st.text(), st.floats(0, 3), st.floats(0, 1), st.floats(1, 1000))
def test_a_vector_is_fit_for_qdrant_whatever_the_text(text, k1, b, average_length):
    for indices, values in (query_vector(text), Bm25(k1, b, average_length).passage_vector(text)):
        assert len(indices) == len(values)
        assert indices == sorted(set(indices))
        assert all(0 <= index < 2**32 for index in indices)
        assert all(0 < value <= k1 + 1 or value.is_integer() for value in values)


@given(st.lists(st.sampled_from(["alpha", "gamma", "ThreadPool", "os.path", "snake_case"]), min_size=1))
def test_the_order_of_words_does_not_matter(words):
    assert query_vector(" ".join(words)) == query_vector(" ".join(reversed(words)))
    assert BM25.passage_vector(" ".join(words)) == BM25.passage_vector(" ".join(sorted(words)))


@given(st.integers(1, 50), st.integers(1, 50))
def test_saying_a_word_more_often_counts_less_and_less(times, more):
    flat = Bm25(k1=1.2, b=0.0, average_length=10)
    (once,), (few,), (many,) = (flat.passage_vector("fish " * count).values for count in (1, times, times + more))
    assert once <= few < many < 2.2
    assert many < few * (times + more) / times


@given(st.integers(1, 100))
def test_a_longer_passage_counts_less(length):
    short, long = ("fish " + "bone " * extra for extra in (length, 2 * length))
    assert dot("fish", long) < dot("fish", short)
