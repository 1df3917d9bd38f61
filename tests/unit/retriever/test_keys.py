"""Keys of passages: names by capitals, identifiers, quotes, links, neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.documents import Chunk, Passage, Relations
from services.retriever.lexical import Bm25
from services.retriever.relations.keys import keys_of, normal, resolved, runs_of, term, terms_of, with_keys


def mentions(text: str, title: str = "") -> list[str]:
    return list(keys_of(Passage("p", text, title)).mentions)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He met Ada Lovelace in London.", ["ada lovelace", "london"]),
        ("The Duke of York met the Queen of the Netherlands.", ["duke of york", "queen", "netherlands"]),
        ("It was Apollo 11, not Apollo.", ["apollo 11", "apollo"]),
        ("The U.S. Navy and Mr. Smith left.", ["u s navy", "mr smith"]),
        ("J. R. R. Tolkien wrote The Hobbit.", ["j r r tolkien", "hobbit"]),
        ("In May she came. On Monday she left.", []),
        ("Paris is large. Many love Paris.", ["paris"]),
        ("Strange things happen. NASA knows.", ["nasa"]),
        ("Simon's Cat and O'Neill", ["simon cat", "o neill"]),
        ("see os.path.join, HTTPServer, max_size and open()", ["os path join", "httpserver", "max size", "open"]),
        ("he wrote “the waves of summer” there", ["waves of summer"]),
        ("彼は「吾輩は猫である」を書いた。", ["吾輩は猫である"]),
        ("nothing here has a name at all", []),
        ("", []),
    ],
)
def test_names_are_found_in_a_text(text: str, found: list[str]) -> None:
    assert sorted(mentions(text)) == sorted(found)


def test_a_passage_is_about_its_title_without_a_remark_and_its_aliases() -> None:
    keys = keys_of(Passage("p", "", "The Mercury (planet)", relations=Relations(aliases=("Hermes' Star",))))
    assert list(keys.about) == ["mercury", "hermes star"]
    assert list(keys.mentions) == ["mercury", "hermes star"]


def test_links_of_markdown_lead_to_documents_and_their_words_are_text() -> None:
    keys = keys_of(Passage("guide/start.md", "See [Ada Lovelace](../people/ada.md#life) and [below](#here)."))
    assert list(keys.refers) == ["people/ada.md"]
    assert list(keys.mentions) == ["ada lovelace"]


@pytest.mark.parametrize(
    ("target", "document", "found"),
    [
        ("ada.md", "people/index.md", "people/ada.md"),
        ("./ada.md", "people/index.md", "people/ada.md"),
        ("../a.md", "people/index.md", "a.md"),
        ("../../a.md", "people/index.md", "../a.md"),
        ("https://example.org/x#y", "people/index.md", "https://example.org/x"),
        ("/a.md", "people/index.md", "/a.md"),
        ("#part", "people/index.md", "people/index.md"),
    ],
)
def test_a_link_is_seen_from_its_own_document(target: str, document: str, found: str) -> None:
    assert resolved(target, document) == found


def test_a_chunk_has_its_neighbours_and_only_the_first_one_is_about_the_title() -> None:
    first = Passage("d", "text", "Ada", chunk=Chunk(1, 3, 0, 4))
    second = Passage("d##2", "text", "Ada", chunk=Chunk(2, 3, 4, 8))
    assert keys_of(first).neighbours == ["d##2"]
    assert keys_of(second).neighbours == ["d", "d##3"]
    about = term("about", "ada")
    assert about in set(terms_of(first, keys_of(first)))
    assert about not in set(terms_of(second, keys_of(second)))
    assert term("mention", "ada") in set(terms_of(second, keys_of(second)))


def test_a_question_is_every_run_of_its_words_but_stop_words_alone() -> None:
    assert runs_of("Who is Ada?") == ["who is", "who is ada", "is ada", "ada"]


def test_keys_are_added_to_the_words_of_a_passage_and_change_none_of_them() -> None:
    passage = Passage("p", "Ada Lovelace met Babbage. He met Babbage again.", "Meeting")
    words = Bm25(1.2, 0.6, 128).passage_vector(passage.text, passage.title)
    both = with_keys(passage, words)
    assert list(both.indices) == sorted(set(both.indices))
    found = dict(zip(*both, strict=True))
    assert all(found[index] == value for index, value in zip(*words, strict=True))
    assert found[term("mention", "ada lovelace")] == 1.0
    assert with_keys(passage, both) == both


@given(st.text(max_size=400), st.text(max_size=60))
def test_any_text_has_keys_in_normal_form_without_repeats(text: str, title: str) -> None:
    keys = keys_of(Passage("p", text, title))
    for names in (keys.about, keys.mentions):
        assert len(set(names)) == len(names)
        assert all(name == normal(name) and name for name in names)
    assert set(keys.about) <= set(keys.mentions)


@given(st.text(max_size=200))
def test_normal_form_is_that_of_itself(name: str) -> None:
    assert normal(normal(name)) == normal(name)
