"""Extractive answers."""

from __future__ import annotations

from services.reasoner.answers import Method, Passage
from services.reasoner.extraction import extract

FILM = Passage("film", "Polish-Russian War", "Polish-Russian War is a 2009 film. It was directed by Xawery Żuławski.")
DIRECTOR = Passage(
    "director", "Xawery Żuławski", "Xawery Żuławski is a Polish director. He is the son of actress Małgorzata Braunek."
)
OTHERS = [
    Passage("tea", "Tea", "Tea is a drink. It is made of leaves. People like the taste of it."),
    Passage("rain", "Rain", "Rain falls from clouds. The water is fresh. Farmers wait for the first drops."),
]
QUESTION = "Who is the mother of the director of the film Polish-Russian War?"


def test_the_second_sentence_is_found_by_what_the_first_one_names():
    answer = extract(QUESTION, [*OTHERS, FILM, DIRECTOR])
    assert {citation.passage_id for citation in answer.citations[:2]} == {"film", "director"}


def test_each_citation_is_a_sentence_of_its_passage_and_no_passage_has_two():
    passages = {passage.id: passage for passage in (*OTHERS, FILM, DIRECTOR)}
    answer = extract(QUESTION, list(passages.values()))
    assert 1 <= len(answer.citations) <= 3
    assert len({citation.passage_id for citation in answer.citations}) == len(answer.citations)
    for one in answer.citations:
        assert passages[one.passage_id].text[one.start : one.end] == one.quote
        assert one.quote in answer.text


def test_what_shares_no_word_with_the_question_is_not_in_the_sources():
    answer = extract("Where do penguins live?", OTHERS)
    assert (answer.text, answer.in_sources, answer.supported, answer.confidence) == ("", False, False, 0.0)


def test_forms_of_a_word_count_as_the_word():
    answer = extract("Who is the director?", [Passage("a", "", "He directed it. It was long."), *OTHERS])
    assert answer.citations[0].quote == "He directed it."


def test_without_passages_nothing_is_found():
    answer = extract(QUESTION, [])
    assert (answer.in_sources, answer.method) == (False, Method.EXTRACTIVE)


def test_a_passage_without_text_is_passed_over():
    answer = extract(QUESTION, [Passage("empty", "Polish-Russian War", ""), FILM])
    assert [citation.passage_id for citation in answer.citations] == ["film"]


def test_confidence_grows_with_the_words_that_are_found():
    whole = extract("Who directed the film Polish-Russian War?", [FILM, *OTHERS])
    part = extract("Who produced, cut and lit the film Polish-Russian War?", [FILM, *OTHERS])
    assert 0 < part.confidence < whole.confidence <= 1


def test_scripts_without_spaces_are_read_as_well():
    passages = [
        Passage("a", "", "東京は日本の首都である。人口は多い。"),
        Passage("b", "", "お茶は飲み物です。葉から作られる。"),
    ]
    answer = extract("日本の首都はどこですか", passages)
    assert answer.citations[0].quote == "東京は日本の首都である。"


def test_a_long_passage_without_a_sentence_end_is_read_in_pieces():
    passage = Passage("long", "", "word " * 500 + "the penguins live in the south " + "word " * 500)
    answer = extract("Where do penguins live?", [passage, *OTHERS])
    assert "penguins" in answer.text
    assert len(answer.citations[0].quote) <= 400
