from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.expander.expansion import MAX_VARIANTS, Expander, Expansion, Source, Strategy
from services.expander.lexicon import WordNetLexicon
from services.expander.words import word_set

STRATEGIES = st.sampled_from(Strategy)
COUNTS = st.integers(1, MAX_VARIANTS)
# Words that WordNet has much to say about, and all that must be left alone.
WORDS = sorted(
    word_set("run buy a the used car cars of compare two file files quickly running bought choose begin in to small")
)
PROTECTED = ['"buy a car"', "`big file`", "snake_case", "CamelCase", "os.path", "sha256", "NASA", "machine-readable2"]
QUERIES = st.text() | st.lists(st.sampled_from([*WORDS, *PROTECTED, "?", ",", "\n"]), max_size=12).map(" ".join)


@pytest.fixture(scope="session")
def expander(wordnet: WordNetLexicon) -> Expander:
    return Expander(wordnet)


def synonyms_of(expansion: Expansion) -> list[str]:
    return [variant.text for variant in expansion.variants if variant.source == Source.SYNONYM]


def normal(text: str) -> str:
    return " ".join(text.casefold().split())


@given(query=QUERIES, strategy=STRATEGIES, count=COUNTS)
def test_the_original_query_is_always_the_first_variant(
    expander: Expander, query: str, strategy: Strategy, count: int
) -> None:
    first = expander.expand(query, strategy, count).variants[0]
    assert (first.text, first.weight, first.source) == (query, 1.0, Source.ORIGINAL)


@given(query=QUERIES, strategy=STRATEGIES, count=COUNTS)
def test_all_other_variants_weigh_more_than_nothing_and_less_than_the_query(
    expander: Expander, query: str, strategy: Strategy, count: int
) -> None:
    others = expander.expand(query, strategy, count).variants[1:]
    assert all(0 < variant.weight < 1 and variant.source != Source.ORIGINAL for variant in others)


@given(query=QUERIES, strategy=STRATEGIES, count=COUNTS)
def test_variants_are_never_alike_nor_more_than_asked_for(
    expander: Expander, query: str, strategy: Strategy, count: int
) -> None:
    texts = [normal(variant.text) for variant in expander.expand(query, strategy, count).variants]
    assert len(texts) == len(set(texts)) <= count


@given(query=QUERIES, strategy=STRATEGIES, count=COUNTS)
def test_a_query_gets_the_same_variants_every_time(
    wordnet: WordNetLexicon, query: str, strategy: Strategy, count: int
) -> None:
    assert Expander(wordnet).expand(query, strategy, count) == Expander(wordnet).expand(query, strategy, count)


@given(query=QUERIES)
def test_what_must_be_left_alone_is_unchanged_in_every_synonym_variant(expander: Expander, query: str) -> None:
    kept = [protected for protected in PROTECTED if f" {protected} " in f" {query} "]
    for text in synonyms_of(expander.expand(query, Strategy.SYNONYMS, MAX_VARIANTS)):
        assert all(text.count(protected) == query.count(protected) for protected in kept)


@settings(max_examples=20)
@given(query=st.lists(st.sampled_from(WORDS), min_size=1_000, max_size=1_000).map(" ".join))
def test_a_page_for_a_query_is_not_searched_for_synonyms(expander: Expander, query: str) -> None:
    assert not synonyms_of(expander.expand(query, Strategy.SYNONYMS, MAX_VARIANTS))


@pytest.mark.parametrize(
    ("query", "present", "absent"),
    [
        # A verb with an object is "operate", not "flee"; and a pool of threads is no pond.
        (
            "run a function in a pool of worker threads",
            ["operate a function in a pool of worker threads"],
            ["run away", "scat", "pond", "puddle", "syndicate", "yarn", "purpose"],
        ),
        # WordNet's "command line" and the idiom "line by line" stay whole; "two" stays what it is.
        ("parse command line options", ["parse command line alternatives"], ["bid", "cable"]),
        ("compare two files line by line", ["compare two data files line by line"], ["equate", "deuce"]),
        # Of these words, WordNet knows no synonym that is likely enough.
        ("round a number to the nearest even digit in money", [], ["finger", "eventide", "phone number"]),
        # A word that is a verb here and a noun there is left alone; so is one that is a verb, not a noun.
        ("where to book a book", [], ["reserve", "volume", "hold"]),
        ("sort a list of dictionaries by key", ["classify a list of dictionaries by key"], ["kind", "form"]),
        # Inflection is kept.
        ("buying cars", ["purchasing cars", "buying automobiles"], []),
        ("handle errors when opening files", ["handle mistakes when opening files"], []),
        ("the company hired workers", ["the company employed workers"], []),
        ("wait for several tasks to finish", ["wait for several tasks to complete"], []),
        ("why did the car stop running", ["why did the automobile stop running"], []),
        # The article stays right.
        ("choose a random element", ["select a random element", "choose a random component"], []),
        ("repair a car", [], ["a automobile", "a auto"]),
        # Terms that the corpus lacks are replaced by others that mean one thing only.
        ("side effects of aspirin in children", ["side effects of acetylsalicylic acid in children"], []),
        ("send an email", ["send an e-mail", "send an electronic mail"], []),
        # A capital at the start is grammar, elsewhere it is a name.
        ("Buy a car in Reading", ["Purchase a car in Reading"], ["purchase"]),
        ("who wrote War and Peace", [], ["warfare"]),
    ],
)
def test_synonyms_of_realistic_queries(expander: Expander, query: str, present: list[str], absent: list[str]) -> None:
    found = synonyms_of(expander.expand(query, Strategy.SYNONYMS, MAX_VARIANTS))
    assert set(present) <= set(found)
    assert not [(text, word) for text in found for word in absent if word in text]


def test_a_typical_query_gets_at_least_three_variants(expander: Expander) -> None:
    queries = ["run a function in a pool of worker threads", "fix memory leak", "history of Rome", "temporary files"]
    assert all(len(expander.expand(query, Strategy.SYNONYMS, 5).variants) >= 3 for query in queries)


def test_the_likelier_a_synonym_the_more_it_weighs(expander: Expander) -> None:
    weights = {
        variant.text: variant.weight
        for variant in expander.expand("buy a used car", Strategy.SYNONYMS, MAX_VARIANTS).variants
    }
    assert weights["purchase a used car"] > weights["buy a used auto"] > weights["purchase a used auto"]


def test_weights_are_those_that_the_expander_was_given(wordnet: WordNetLexicon) -> None:
    light = Expander(wordnet, synonym_weight=0.1, template_weight=0.2)
    synonyms = light.expand("buy a used car", Strategy.SYNONYMS, 3).variants[1:]
    templates = light.expand("buy a used car", Strategy.MULTI_QUERY, MAX_VARIANTS).variants[1:]
    assert all(variant.weight <= 0.1 for variant in synonyms)
    assert max(variant.weight for variant in templates) == 0.2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("How do I parse JSON?", ["parse JSON", "how to parse JSON", "ways to parse JSON"]),
        ("Parse command line options", ["how to parse command line options", "ways to parse command line options"]),
        ("what is a context manager?", ["a context manager", "context manager", "a context manager explained"]),
        ("side effects of aspirin", ["side effects aspirin", "what are side effects of aspirin"]),
        ("why is the sky blue", ["sky blue", "reason sky blue"]),
        ("how do vaccines protect against disease", ["vaccines protect against disease", "vaccines protect disease"]),
        ("does aspirin thin the blood", ["aspirin thin blood", "facts about aspirin thin blood"]),
        ('"to be or not to be" author', ['what is "to be or not to be" author']),
    ],
)
def test_templates_fit_the_shape_of_the_query(expander: Expander, query: str, expected: list[str]) -> None:
    expansion = expander.expand(query, Strategy.MULTI_QUERY, MAX_VARIANTS)
    assert set(expected) <= {variant.text for variant in expansion.variants}
    assert expansion.strategy_used == Strategy.MULTI_QUERY
    assert expansion.degraded_reason is None


@pytest.mark.parametrize("query", ["", " ", "???", "to be or not to be", "42", "機械学習", "{phrase} {0}", "C++"])
def test_a_query_without_words_to_work_with_is_still_answered(expander: Expander, query: str) -> None:
    for strategy in Strategy:
        assert expander.expand(query, strategy, 5).variants[0].text == query


def test_without_wordnet_templates_serve_and_the_reply_says_so() -> None:
    expansion = Expander(None).expand("buy a used car", Strategy.SYNONYMS, 5)
    assert expansion.strategy_used == Strategy.MULTI_QUERY
    assert expansion.degraded_reason
    assert "WordNet" in expansion.degraded_reason
    assert {variant.source for variant in expansion.variants[1:]} == {Source.TEMPLATE}
