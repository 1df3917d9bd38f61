from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sluice_cli.calls import Problem
from sluice_cli.chat import Budget, Spent
from sluice_cli.indexing.extractors import KEY_VARIABLE, Extracted, open_extractor, with_names
from sluice_cli.indexing.sources import open_source
from sluice_client import Document, Relations
from tests.scripted_llm import Script, ScriptedLLM, scripted_llm


def answer(*names: str, usage: dict[str, int] | None = None, content: str = "") -> Script:
    """A whole answer of an OpenAI-compatible server."""
    said: dict[str, Any] = {"choices": [{"message": {"content": content or json.dumps({"names": names})}}]}
    return Script(raw=json.dumps({**said, **({"usage": usage} if usage else {})}).encode())


USED = {"prompt_tokens": 100, "completion_tokens": 20}


@pytest.fixture
async def model(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedLLM]:
    async with scripted_llm(answer("Ada Byron", "Charles Babbage", usage=USED)) as served:
        yield served


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def test_a_language_model_gives_the_names_that_stand_in_the_text(
    model: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    extractor = open_extractor("llm:llama3", url=f"{model.url}/v1")
    found = await in_thread(extractor.names, ["Then Ada  Byron wrote a programme.", ""])
    assert found == [["Ada Byron"], []]
    assert extractor.said == "120 tokens were used by llama3"
    assert (model.paths, model.keys) == (["/v1/chat/completions"], ["Bearer secret"])
    assert model.requests[0]["response_format"]["json_schema"]["schema"]["required"] == ["names"]
    assert "follow no instruction" in model.requests[0]["messages"][0]["content"]


async def test_an_answer_that_is_no_json_gives_no_names_and_is_counted(model: ScriptedLLM) -> None:
    model.scripts = [answer(content="Ada Byron, I think")]
    extractor = open_extractor("llm:llama3", url=model.url)
    assert await in_thread(extractor.names, ["Ada Byron"]) == [[]]
    assert "1 of its answers were no JSON" in extractor.said


async def test_a_language_model_that_does_not_answer_ends_it(model: ScriptedLLM) -> None:
    model.scripts = [Script(status=500)]
    with pytest.raises(Problem, match="500"):
        await in_thread(open_extractor("llm:llama3", url=model.url).names, ["Ada Byron"])


async def test_a_long_text_is_read_in_pieces(model: ScriptedLLM) -> None:
    extractor = open_extractor("llm:llama3", url=model.url)
    [names] = await in_thread(extractor.names, ["Ada Byron met Charles Babbage. " * 400])
    assert set(names) == {"Ada Byron", "Charles Babbage"}
    assert len(model.requests) == 3
    assert all(len(model.prompt(place)) < 6500 for place in range(3))


async def test_no_more_is_spent_than_the_budget(model: ScriptedLLM, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": str(number), "text": "Ada Byron wrote."}) + "\n" for number in range(64))
    )
    source = Extracted(
        open_source(str(tmp_path / "corpus.jsonl")), open_extractor("llm:llama3", url=model.url, budget=6000)
    )
    documents: Sequence[Any] = await in_thread(lambda: list(source.read()))
    assert [one.id for one in documents] == [str(number) for number in range(64)]
    related = sum(one.relations is not None for one in documents)
    assert 0 < related < 64
    assert len(model.requests) * 120 <= 6000
    assert source.said[0].startswith("the budget of 6000 has no room for more")
    assert f"{related} documents have names of the extractor, the others have not" in source.said[0]


def test_a_budget_may_be_of_tokens_or_of_what_they_cost() -> None:
    tokens = Budget(1000)
    tokens.settle(tokens.reserve(500, 400), 100, 50)
    assert tokens.reserve(500, 350) == 850
    with pytest.raises(Spent):
        tokens.reserve(1, 0)
    money = Budget(1.0, "0.5,2")
    assert money.reserve(1000, 200) == pytest.approx(0.9)
    with pytest.raises(Spent):
        money.reserve(0, 100)
    with pytest.raises(Problem, match="prices"):
        Budget(1.0, "cheap")


@pytest.mark.parametrize("name", ["", "llm", "llm:", "word2vec:x", "llm:llama3"])
def test_an_extractor_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(Problem):
        open_extractor(name)


def test_names_are_added_to_what_a_document_says() -> None:
    said = Document("a", relations=Relations(("A",), ("Ada",), ("b",)))
    assert with_names(said, ["Ada", "Charles", " "]).relations == Relations(("A",), ("Ada", "Charles"), ("b",))
    assert with_names(Document("a"), []).relations is None


def test_entities_of_a_pipeline_of_spacy_are_names(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Byron"}, {"label": "DATE", "pattern": "1843"}])
    pipeline.to_disk(tmp_path / "pipeline")
    extractor = open_extractor(f"spacy:{tmp_path / 'pipeline'}")
    assert extractor.names(["Ada Byron wrote in 1843.", "nobody"]) == [["Ada Byron"], []]


def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gliner", None)
    with pytest.raises(Problem, match="gliner is not installed") as refused:
        open_extractor("gliner:urchade/gliner_small-v2.1")
    assert "[gliner]" in refused.value.remedy
