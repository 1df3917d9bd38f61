import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.lexical import LANGUAGES, Analyzer, Bm25

BM25 = Bm25(k1=1.2, b=0.75, average_length=10)


def dot(query: str, passage: str, bm25: Bm25 = BM25) -> float:
    weights = dict(zip(*bm25.passage_vector(passage), strict=True))
    return sum(count * weights.get(term, 0.0) for term, count in zip(*bm25.query_vector(query), strict=True))


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
    [("3.11", "3 or 11"), ("thread", "threadbare"), ("", "word"), ("to be or not to sail", "to be or not to be")],
)
def test_a_query_does_not_find_what_means_something_else(query, passage):
    assert not finds(query, passage)


def test_a_whole_identifier_beats_its_parts():
    query = "os.path.join"
    assert dot(query, "os.path.join joins paths") > dot(query, "os and path: join is a word of str")


@pytest.mark.parametrize("text", ["", "   ", "...", "___", "?!", "\u200b\u00ad", "A" * 1000])
def test_text_without_words_has_an_empty_vector(text):
    assert BM25.query_vector(text) == BM25.passage_vector(text) == ([], [])


def test_a_passage_is_weighed_as_the_formula_says():
    # terms: fish fish bone -> tf 2 and 1, length 3; a stop word has its value, and does not count in the length
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / 10)
    assert sorted(BM25.passage_vector("fish and fish bones").values) == pytest.approx(
        sorted([2 * 2.2 / (2 + norm), 2.2 / (1 + norm), 2.2 / (1 + norm)])
    )


@given(st.integers(1, 5))
def test_a_word_of_the_title_counts_as_if_it_were_said_so_often(weight):
    weighing = Bm25(k1=1.2, b=0.75, average_length=10, title_weight=weight)
    said = BM25.passage_vector("fish bones " + "fishing rod " * weight)
    assert weighing.passage_vector("fish bones", "fishing rod") == said


def test_a_repeated_word_of_the_query_counts_as_often():
    assert BM25.query_vector("fish fish bone").values in ([1.0, 2.0], [2.0, 1.0])


def test_term_indices_are_the_same_in_every_process_and_release():
    """They are stored; were they to change, nothing indexed before could be found by its words."""
    assert BM25.query_vector("submit").indices == [SUBMIT]
    script = "from services.retriever.lexical import Bm25; print(Bm25(1, 1, 1).query_vector('submit').indices[0])"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(other.stdout) == SUBMIT


SUBMIT = 358538631


@given(st.text(), st.floats(0, 3), st.floats(0, 1), st.floats(1, 1000))
def test_a_vector_is_fit_for_qdrant_whatever_the_text(text, k1, b, average_length):
    bm25 = Bm25(k1, b, average_length)
    for indices, values in (bm25.query_vector(text), bm25.passage_vector(text)):
        assert len(indices) == len(values)
        assert indices == sorted(set(indices))
        assert all(0 <= index < 2**32 for index in indices)
        assert all(0 < value <= k1 + 1 or value.is_integer() for value in values)


@given(st.lists(st.sampled_from(["alpha", "gamma", "ThreadPool", "os.path", "snake_case"]), min_size=1))
def test_the_order_of_words_does_not_matter(words):
    assert BM25.query_vector(" ".join(words)) == BM25.query_vector(" ".join(reversed(words)))
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


def best(query: str, *passages: str, bm25: Bm25 = BM25) -> set[int]:
    """The places of the passages with the highest score above 0."""
    scores = [dot(query, passage, bm25) for passage in passages]
    return {place for place, score in enumerate(scores) if score == max(scores) > 0}


CHINESE = ("请在月底之前把发票交给财务部门", "忘记密码时可以通过邮箱重新设置", "访客停车请到地下二层登记")
JAPANESE = ("東京駅から空港までの電車の時刻表", "美味しいラーメンの作り方")
KOREAN = ("서울에서 부산까지 기차를 타고 갔다", "맛있는 김치를 만드는 방법")
THAI = ("วิธีทำต้มยำกุ้งแบบง่าย", "ตารางเวลารถไฟไปเชียงใหม่")
ARABIC = ("كَتَبَ الطالبُ الدرسَ", "القطار إلى المدينة")
HINDI = ("वह किताब पढ़ता है", "वह कितना बड़ा है")


@pytest.mark.parametrize(
    ("query", "passages", "place"),
    [
        ("发票", CHINESE, 0),
        ("密码", CHINESE, 1),
        ("停车", CHINESE, 2),
        ("层", CHINESE, 2),
        ("電車", JAPANESE, 0),
        ("ラーメン", JAPANESE, 1),
        ("ﾗｰﾒﾝ", JAPANESE, 1),
        ("기차", KOREAN, 0),
        ("김치", KOREAN, 1),
        ("รถไฟ", THAI, 1),
        ("ต้มยำ", THAI, 0),
        ("ຂົນ", ("ຂ້ອຍມີຂົນ", "ຂ້ອຍມີເງິນ"), 0),
        ("សៀវភៅ", ("ខ្ញុំមានសៀវភៅ", "ខ្ញុំមានលុយ"), 0),
        ("كتب", ARABIC, 0),
        ("الدرس", ARABIC, 0),
        ("قطار", ARABIC, 1),
        ("किताबें", HINDI, 0),
        ("कितना", HINDI, 1),
        ("книг", ("много книги", "много воды"), 0),
        ("שלום", ("שָׁלוֹם לכולם", "אחר"), 0),
        ("手机", ("iPhone手机壳", "iPhone 充电器"), 0),
        ("iPhone", ("新的iPhone手机", "新的手机"), 0),
        ("٢٠٢٤", ("the year 2024", "the year 2023"), 0),
    ],
)
def test_a_word_of_any_script_finds_the_passage_that_has_it(query, passages, place):
    assert best(query, *passages) == {place}


PROGRAMS = (
    "How to write a parser in C++",
    "How to write a parser in C#",
    "How to write a parser in C",
    "getUserName returns the name",
    "get_user_name returns the name",
    "call os.path.join to join",
    "Using .NET and node.js",
    "all the URLs of the APIs",
)


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("C++", {0}),
        ("c++", {0}),
        ("(C++)", {0}),
        ("C++17", {0}),
        ("C#", {1}),
        ("\uff23\uff03", {1}),
        ("C", {2}),
        ("getUserName", {3}),
        ("getusername", {3}),
        ("get_user_name", {4}),
        ("get user name", {3, 4}),
        ("path", {5}),
        ("os.path.join", {5}),
        (".NET", {6}),
        ("net", {6}),
        ("node.js", {6}),
        (".js", {6}),
        ("url", {7}),
        ("API", {7}),
    ],
)
def test_a_name_of_a_program_is_found_as_written_and_by_its_parts(query, places):
    assert best(query, *PROGRAMS) == places


def test_a_sign_that_ends_no_name_is_no_part_of_it():
    analyzer = Analyzer()
    assert analyzer.terms("see #12, issue#12 and so on...and a+b") == analyzer.terms(
        "see 12, issue 12 and so on and a b"
    )


@given(
    st.sampled_from(["hyphenation", "東京駅", "किताब", "كتاب", "os.path", "C++", "cafe\u0301"]),
    st.sampled_from("\u00ad\u200b\u200c\u200d\u200e\u2060\ufe0f\ufeff\u034f\U000e0101"),
    st.integers(0, 12),
)
def test_what_a_reader_does_not_see_changes_no_terms(word, unseen, place):
    assert Analyzer().terms(word[:place] + unseen + word[place:]) == Analyzer().terms(word)


def test_a_query_of_stop_words_alone_keeps_them():
    passages = ("The Who played in Leeds.", "Gardening in spring")
    assert best("the who", *passages) == {0}
    assert best("to be or not to be", "to be or not to be", "sailing") == {0}


def test_a_query_with_other_words_leaves_its_stop_words_out():
    assert BM25.query_vector("the fish in the sea") == BM25.query_vector("fish sea")


@pytest.mark.parametrize(
    ("language", "query", "passage", "found"),
    [
        ("german", "Häuser", "das Haus", True),
        ("german", "STRASSE", "die Straße", True),
        ("english", "Häuser", "das Haus", False),
        ("french", "continuer", "ils continuaient", True),
        ("turkish", "ISTANBUL", "İstanbul", True),
        ("none", "files", "file", False),
        ("none", "FILE", "file", True),
        ("none", "the", "the", True),
        ("german", "функции", "функция", True),
        ("none", "функции", "функция", False),
    ],
)
def test_stems_are_those_of_the_language_and_of_the_script(language, query, passage, found):
    bm25 = Bm25(1.2, 0.75, 10, analyzer=Analyzer(language))
    assert (dot(query, passage, bm25) > 0) is found


def test_stop_words_are_those_of_the_language():
    german = Analyzer("german")
    assert len(german.terms("der Hund und die Katze").telling) == 2
    assert len(german.terms("the dog").telling) == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_analyzer_is_read_as_it_was_written(language):
    assert Analyzer.parse(str(Analyzer(language))) == Analyzer(language)


@pytest.mark.parametrize("text", ["", "words-2", "words-2 klingon", "words-3 english", "english"])
def test_an_analyzer_of_another_release_is_not_read(text):
    assert Analyzer.parse(text) is None


def test_the_older_analyzer_gives_a_collection_the_terms_that_it_was_made_with():
    older = Bm25(1.2, 0.75, 10, analyzer=Analyzer.parse("english-1"))
    assert str(older).startswith("english-1, ")
    # Terms of the text in that release: os.path.isfile, os, path, isfile, file, c, zero, width; no stop words.
    terms = older.analyzer.terms("os.path.isFile in C++ zero\u200bwidth")
    assert len(terms.telling) == 8
    assert terms.further == []
    assert older.query_vector("submit") == BM25.query_vector("submit")
    assert older.query_vector("the who") == ([], [])


@given(st.text(st.sampled_from("aZé9_.+#'\u2019 -東รÉ\n"), max_size=40))
def test_words_in_plain_letters_have_the_same_terms_next_to_others(text):
    """ASCII is cut by an expression of its own."""
    plain = "".join(character for character in text if character.isascii())
    alone, beside = Analyzer().terms(plain), Analyzer().terms(plain + " é")
    assert beside.telling == [*alone.telling, *Analyzer().terms("é").telling]
    composed = Analyzer().terms(text.replace("'", "\u2019")).telling
    assert composed == Analyzer().terms(text).telling


def test_a_long_text_of_one_token_is_no_word_and_is_not_remembered():
    assert Analyzer().terms("x" * 60_000) == ([], [])
    assert len(Analyzer().terms("long." * 60).telling) == 60


def test_tokens_of_60_kilobytes_leave_nothing_in_the_caches():
    Analyzer().terms("warm up")
    tracemalloc.start()
    for number in range(100):
        Analyzer().terms(f"{number:05}" * 12_000)
        Analyzer().terms("é" + f"x{number:05}" * 10_000 + ".a.b")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000
