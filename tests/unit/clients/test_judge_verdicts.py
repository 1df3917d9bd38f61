from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from sluice_cli.calls import Problem
from sluice_cli.chat import Budget, ChatModel
from sluice_cli.evaluation.judge import Task, Verdicts, judge, judged, made_by
from sluice_judgments.judging import Passage
from tests.scripted_llm import Script, scripted_llm

HOW = made_by("m", "pointwise", 400)


def task(name: str) -> Task:
    return Task("q", "why?", (Passage(name, "", f"text of {name}"),))


def test_a_verdict_that_was_cut_off_is_asked_for_again_and_the_others_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "verdicts"
    verdicts = Verdicts(file, HOW)
    verdicts.add(task("a"), grade=2)
    verdicts.close()
    with file.open("ab") as torn:
        torn.write(b'{"of": ["q", "b"], "gra')
    again = Verdicts(file, HOW)
    assert list(again.rows) == [("q", "a")]
    again.add(task("b"), grade=None)
    again.close()
    found = judged(Verdicts(file, HOW), {"q": "why?"})
    assert (found.grades.grades, found.grades.texts, found.useless) == ({"q": {"a": 2}}, {"q": "why?"}, 1)


def test_verdicts_of_another_prompt_are_not_mixed_in(tmp_path: Path) -> None:
    Verdicts(tmp_path / "verdicts", HOW).close()
    with pytest.raises(Problem, match="another model, method or prompt"):
        Verdicts(tmp_path / "verdicts", {**HOW, "prompt": "other"})
    assert made_by("m", "pointwise", 400) == HOW != made_by("m", "pairwise", 400)


async def test_nothing_is_asked_after_it_was_stopped_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    reply = json.dumps({"choices": [{"message": {"content": '{"grade": 1}'}}]}).encode()
    async with scripted_llm(Script(raw=reply)) as llm:
        model = ChatModel("m", llm.url, "", Budget(None), remedy="")
        verdicts, stop = Verdicts(tmp_path / "verdicts", HOW), threading.Event()

        said = await asyncio.to_thread(
            judge,
            [task(name) for name in "abcd"],
            model,
            verdicts,
            stop,
            passage_tokens=100,
            at_once=1,
            on_verdict=lambda: stop.set() if len(verdicts.rows) == 2 else None,
        )
        assert (said, len(verdicts.rows), len(llm.requests)) == ("", 2, 2)
