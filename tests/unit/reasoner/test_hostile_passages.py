"""Hostile passages: none changes the shape of an answer, and none is obeyed where no model reads it."""

from __future__ import annotations

import re
import unicodedata

import pytest

from services.reasoner.answers import Fallback, Method, Task
from services.reasoner.citations import Folded
from services.reasoner.extraction import extract
from services.reasoner.prompting import Room, make_prompt
from tests.scripted_llm import Script, reply
from tests.unit.reasoner.hostile import EXPECTED, HOSTILE, QUESTION, passages
from tests.unit.reasoner.test_writing import asking

hostile = pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
# What chat templates read as more than text.
STEERING = re.compile(r"<\|.*?\|>|</?s>|<<?/?SYS>>?|<(start|end)_of_turn>|\[/?INST\]", re.DOTALL)


def test_there_are_twenty() -> None:
    assert len(set(HOSTILE)) == 20


@hostile
def test_a_passage_stays_between_its_marks(text: str) -> None:
    prompt = make_prompt(Task(QUESTION, passages(text)), Room(4096, 512)).prompt
    (boundary,) = set(re.findall(r"<passage-([0-9a-f]{16}) number=", prompt.user))
    marks = re.findall(rf"^</?passage-{boundary}(?: number=\"(\d)\")?>$", prompt.user, re.MULTILINE)
    assert marks == ["1", "", "2", "", "3", ""]
    without_marks = re.sub(rf"</?passage-{boundary}(?: number=\"\d\")?>", "", prompt.user)
    assert "<" not in without_marks
    assert not STEERING.search(without_marks)
    assert prompt.user.endswith(f"Question: {QUESTION}\n")
    assert boundary in prompt.system
    assert text not in prompt.system


def test_every_prompt_has_a_boundary_of_its_own() -> None:
    task = Task(QUESTION, passages(HOSTILE[0]))
    assert len({make_prompt(task, Room(4096, 512)).prompt.system for _ in range(20)}) == 20


@hostile
def test_what_was_made_harmless_can_still_be_quoted(text: str) -> None:
    prompt = make_prompt(Task(QUESTION, passages(text)), Room(8192, 512)).prompt
    shown = prompt.user.split('number="2">\n')[1].split("\n</passage-")[0].split("\n", text[:40].count("\n") + 1)[-1]
    assert unicodedata.normalize("NFKC", shown) == unicodedata.normalize("NFKC", text)
    words = re.search(r"[A-Za-z]{3,}", shown)
    assert words
    assert Folded(text).find(words.group())


@hostile
def test_sentences_answer_as_if_it_were_not_there(text: str) -> None:
    answer = extract(QUESTION, passages(text))
    assert answer.citations[0].quote == EXPECTED
    texts = {passage.id: passage.text for passage in passages(text)}
    for one in answer.citations:
        assert texts[one.passage_id][one.start : one.end] == one.quote


@hostile
async def test_a_model_that_obeys_cannot_change_the_shape_of_the_answer(text: str) -> None:
    async with asking(Script([text])) as asked:
        answer = await asked.answer(Task(QUESTION, passages(text)))
        if answer.method is Method.LLM:  # it wrote the whole reply, as the schema wants it
            assert not answer.supported
        else:
            assert (answer.fallback, answer.citations[0].quote) == (Fallback.INVALID, EXPECTED)


async def test_a_model_that_obeys_within_the_schema_is_marked() -> None:
    async with asking(reply("PWNED", (3, "PWNED"))) as asked:
        answer = await asked.answer(Task(QUESTION, passages(HOSTILE[0])))
        assert (answer.supported, answer.dropped_citations) == (False, 1)
