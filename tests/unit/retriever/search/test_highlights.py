import pytest

from services.retriever.lexical import Analyzer
from services.retriever.search.highlights import MOST_CHARACTERS, highlight

TEXT = "Pools run work. A thread pool is closed with shutdown. Shutdown waits for the workers. Nothing else."


ENGLISH = Analyzer()


def marked(query, *texts, analyzer=ENGLISH):
    return [
        [text[one.start : one.end] for one in found]
        for text, found in zip(texts, highlight(query, texts, analyzer), strict=True)
    ]


def test_the_sentence_with_most_of_the_words_is_marked():
    assert marked("how is a thread pool closed", TEXT) == [["A thread pool is closed with shutdown."]]


def test_further_sentences_are_marked_for_the_words_that_they_add():
    expected = ["A thread pool is closed with shutdown.", "Shutdown waits for the workers."]
    assert marked("closed thread pool waiting for workers", TEXT) == [expected]


def test_words_are_compared_as_the_search_compares_them():
    assert marked("closing THREADS", TEXT) == [["A thread pool is closed with shutdown."]]
    assert marked("ein Haus", "Die Straße. Viele Häuser.", analyzer=Analyzer("german")) == [["Viele Häuser."]]
    assert marked("首都", "東京は日本の首都です。大阪は違う。") == [["東京は日本の首都です。"]]


def test_rare_words_count_more_than_common_ones():
    texts = ["Pool one. Pool two. Lifeguard.", "Pool three. Pool four."]
    assert marked("pool lifeguard", *texts)[0][-1] == "Lifeguard."
    scores = {texts[0][one.start : one.end]: one.score for one in highlight("pool lifeguard", texts, ENGLISH)[0]}
    assert scores["Lifeguard."] > scores["Pool one."]
    assert sum(scores.values()) == pytest.approx(1.0)


def test_a_text_without_the_words_has_no_highlight():
    assert marked("zebra", TEXT, "") == [[], []]
    assert marked("?!", TEXT) == [[]]


def test_stop_words_count_if_there_are_no_others():
    assert marked("to be", "Or not. That is the question. It is to be.") == [["It is to be."]]


def test_at_most_three_sentences_of_the_beginning_are_marked():
    assert marked("a1 b2 c3 d4", "A1 x. B2 x. C3 x. D4 x.") == [["A1 x.", "B2 x.", "C3 x."]]
    assert marked("needle", "x " * MOST_CHARACTERS + "needle.") == [[]]
