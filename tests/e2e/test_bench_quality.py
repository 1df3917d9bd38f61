"""The quality bench in miniature, over the stack that the other tests use."""

import pytest

from bench.quality import asking, results
from bench.quality.beir import Dataset
from bench.quality.configs import CONFIGS
from bench.quality.kept import Kept
from deploy.local.profiles import load_profile
from services.chassis.errors import StartupError
from sluice_client import Document

pytestmark = pytest.mark.asyncio(loop_scope="session")

DATASET = Dataset(
    name="tiny",
    split="test",
    documents=[
        Document("bees", "Bees", "Bees gather nectar and make honey of it."),
        Document("ships", "Ships", "A ship is steered with a rudder."),
        Document("bread", "Bread", "Dough rises because yeast makes gas."),
        Document("nothing"),
    ],
    queries={"q1": "where does honey come from?", "q2": "what makes dough rise?"},
    qrels={"q1": {"bees": 1}, "q2": {"bread": 1}},
)


@pytest.fixture
def settings():
    return load_profile("development")


async def _store(client, settings):
    stored, rejected = [], []
    collection = await asking.store(
        client, DATASET, settings, stored.append, lambda document, _error: rejected.append(document.id)
    )
    return collection, sum(stored), rejected


async def _ask(client, collection, name, path):
    asked = []
    kept = Kept(path / f"{name}.jsonl", "key")
    answers = await asking.ask(
        client, collection, DATASET.queries.items(), CONFIGS[name], kept, lambda: asked.append(name)
    )
    return answers, len(asked)


async def test_documents_are_stored_once_and_those_without_words_are_told(client, settings):
    collection, stored, rejected = await _store(client, settings)
    assert (stored, rejected) == (3, ["nothing"])
    assert await _store(client, settings) == (collection, 4, [])


async def test_other_lexical_settings_make_another_collection(client, settings):
    collection, _stored, _rejected = await _store(client, settings)
    other, _stored, _rejected = await _store(client, {**settings, "LEXICAL_B": "0.1"})
    assert other != collection


async def test_every_configuration_is_answered_and_measured(client, settings, tmp_path):
    collection, _stored, _rejected = await _store(client, settings)
    asked = {name: (await _ask(client, collection, name, tmp_path))[0] for name in CONFIGS}
    made = results.rows(DATASET, asked)
    assert [row["config"] for row in made] == list(CONFIGS)
    assert all(row["ndcg@10"] == 1.0 and row["queries"] == 2 and row["ms_per_query"] > 0 for row in made)


async def test_a_second_run_asks_only_what_is_missing(client, settings, tmp_path):
    collection, _stored, _rejected = await _store(client, settings)
    first, _count = await _ask(client, collection, "hybrid", tmp_path)
    file = tmp_path / "hybrid.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    marked = lines[1].replace('"bees"', '"from the file"')
    file.write_text(lines[0] + marked)
    second, count = await _ask(client, collection, "hybrid", tmp_path)
    assert count == 2
    assert second.run["q1"][0] == "from the file"
    assert second.run["q2"] == first.run["q2"]


async def test_a_stage_that_did_not_do_its_part_ends_the_bench(client, settings, tmp_path, monkeypatch):
    collection, _stored, _rejected = await _store(client, settings)
    monkeypatch.setattr(asking, "_WELL", frozenset())
    with pytest.raises(StartupError, match="the stage expand skipped: FEATURE_OFF"):
        await _ask(client, collection, "hybrid", tmp_path)
