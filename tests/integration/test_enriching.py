from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.validation import chunk_id
from services.retriever.documents import Chunk, Passage, Relations, Vector
from services.retriever.fields import ALL
from services.retriever.relations.hops import PathKind
from services.retriever.relations.keys import KEYS
from services.retriever.relations.relating import Expansion, Seed
from services.retriever.rows import words_of as keyed_words
from services.retriever.store import Parts, PassageStore, Row
from tests.integration.shelf import EAST, MODEL, OTHER, Shelf

FIRST_NAMES = ("Anna", "Boris", "Clara", "David", "Edith")
NAMES = [f"{first} {last}" for first in FIRST_NAMES for last in ("Abel", "Berg", "Cohn")]
T = TypeVar("T")
NewCollection = Callable[..., Awaitable[str]]


def person(name: str, *known: str, since: int = 1900, **fields: object) -> Passage:
    text = f"This one has known {' and '.join(known) or 'nobody'} since {since}."
    return Passage(name.lower().replace(" ", "-"), text, name, {"since": since}, EAST, **fields)  # type: ignore[arg-type]


async def all_steps(steps: AsyncIterator[T]) -> list[T]:
    return [step async for step in steps]


async def expand(shelf: Shelf, collection: str, *seeds: str, question: str = "Who is known?") -> Expansion:
    found = [Seed(seed, 1 / place) for place, seed in enumerate(seeds, 1)]
    return await shelf.relating.expand(collection, question, found, hops=1, limit=50, condition=ALL)


async def rows_of(store: PassageStore, version: str) -> list[Row]:
    rows, following = await store.scroll(version, None, 10_000, Parts.VECTOR, None)
    assert following is None
    return list(rows)


async def words_of(store: PassageStore, version: str) -> dict[str, dict[int, float]]:
    return {row.passage.id: dict(zip(*row.words, strict=True)) for row in await rows_of(store, version)}


@pytest.fixture
def keyed(store: PassageStore) -> Shelf:
    """A shelf of which new collections have keys from the beginning."""
    return Shelf(store, relations=KEYS)


async def keyed_copy(keyed: Shelf, name: str, passages: Sequence[Passage]) -> str:
    version = (await keyed.collections.create(name, MODEL)).version
    for start in range(0, len(passages), 500):
        await keyed.put(version, passages[start : start + 500])
    return version


async def test_an_enriched_version_is_as_one_that_had_keys_from_the_beginning(
    shelf: Shelf, keyed: Shelf, store: PassageStore, new_collection: NewCollection, new_name: Callable[[], str]
) -> None:
    people = [person(name, NAMES[place - 1], NAMES[place - 2]) for place, name in enumerate(NAMES)]
    later = Passage(chunk_id("log", 2), "Then came Clara Cohn.", "The log", vector=EAST, chunk=Chunk(2, 2, 10, 30))
    first = Passage(
        "log", "It began.", "The log", vector=EAST, chunk=Chunk(1, 2, 0, 9), relations=Relations(("diary",))
    )
    plain = await new_collection(passages=[*people, first, later])
    with pytest.raises(FailedPrecondition, match=r"have no keys.*sluice enrich"):
        await expand(shelf, plain, "anna-abel")

    steps = await all_steps(shelf.enriching.run(plain))

    assert (steps[-1].done, steps[-1].total, steps[-1].changed) == (17, 17, 17)
    info = await shelf.collections.get(plain)
    assert info.is_enriched
    fresh = await keyed_copy(keyed, new_name(), [*people, first, later])
    assert await words_of(store, plain) == await words_of(store, fresh)
    assert (await expand(shelf, plain, "anna-abel")).passages == (await expand(shelf, fresh, "anna-abel")).passages
    assert [row.revision for row in await rows_of(store, plain)].count("0") == 0


async def test_enriching_once_more_changes_nothing(shelf: Shelf, new_collection: NewCollection) -> None:
    version = await new_collection(passages=[person(name) for name in NAMES])
    await all_steps(shelf.enriching.run(version))
    assert [step.changed for step in await all_steps(shelf.enriching.run(version))] == [0]
    assert {step.changed for step in await all_steps(shelf.enriching.run(version, report=True))} == {0}


async def test_what_was_broken_off_goes_on_where_it_was_and_hops_are_refused_until_then(
    shelf: Shelf, store: PassageStore, new_collection: NewCollection
) -> None:
    people = [person(f"{name} {number}", name) for number, name in enumerate(NAMES) for number in range(15)]
    version = await new_collection(passages=people)
    async with aclosing(shelf.enriching.run(version)) as steps:
        async for step in steps:
            if step.done > 100:
                break
    half = await shelf.collections.get(version)
    assert half.relations == KEYS
    assert half.enriching > "00000000-0000-0000-0000-000000000000"
    assert not half.is_enriched
    with pytest.raises(FailedPrecondition, match="are being given the keys"):
        await expand(shelf, version, people[0].id)

    last = (await all_steps(shelf.enriching.run(version)))[-1]

    assert 0 < last.changed < len(people)
    assert await _lacking(shelf, version) == []
    assert (await expand(shelf, version, people[0].id)).version == version


async def test_writers_that_began_before_give_keys_all_the_same(
    shelf: Shelf, store: PassageStore, new_collection: NewCollection
) -> None:
    version = await new_collection(passages=[person(name) for name in NAMES])
    chance = random.Random(7)

    async def write() -> None:
        for _ in range(30):
            name = chance.choice(NAMES)
            await shelf.put(version, [person(name, chance.choice(NAMES), since=chance.randrange(2000))])

    await asyncio.gather(write(), write(), all_steps(shelf.enriching.run(version)), write())
    assert await _lacking(shelf, version) == []


async def held(store: PassageStore, monkeypatch: pytest.MonkeyPatch, writing: Coroutine[Any, Any, object]) -> Task:
    """Begin something, and return it when it is about to write; it goes on when its gate is opened."""
    write, began, gate = store.write, asyncio.Event(), asyncio.Event()

    async def waiting(*arguments: Any, **options: Any) -> None:
        began.set()
        await gate.wait()
        await write(*arguments, **options)

    monkeypatch.setattr(store, "write", waiting)
    task = asyncio.create_task(writing)
    await began.wait()
    return Task(task, gate)


class Task(NamedTuple):
    """Work that is held, and the event that lets it go on."""

    task: asyncio.Task[object]
    gate: asyncio.Event


async def test_what_is_written_by_the_notes_of_before_is_written_once_more(
    shelf: Shelf, store: PassageStore, new_collection: NewCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await new_collection()
    late = await held(store, monkeypatch, shelf.put(version, [person(name) for name in NAMES]))
    await all_steps(shelf.enriching.run(version))
    late.gate.set()
    await late.task
    assert await shelf.count(version) == len(NAMES)
    assert await _lacking(shelf, version) == []


async def test_what_is_copied_by_the_notes_of_before_is_copied_once_more(
    shelf: Shelf, store: PassageStore, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_name()
    await shelf.collections.create(name, MODEL)
    people = [person(name) for name in NAMES]
    await shelf.put(name, people)
    built, _ = await shelf.versions.create(name, OTHER)
    compared = await shelf.building.compare(name, built.version)
    wanted = [replace(one, passage=replace(one.passage, vector=EAST)) for one in compared.differences if one.passage]
    copying = shelf.building.copy(built.version, wanted, model_fingerprint=OTHER.fingerprint)
    late = await held(store, monkeypatch, copying)
    await all_steps(shelf.enriching.run(built.version))
    late.gate.set()
    await late.task
    assert await shelf.count(built.version) == len(people)
    assert await _lacking(shelf, built.version) == []


async def test_a_snapshot_of_a_version_that_is_being_enriched_says_what_it_lacks(
    shelf: Shelf, new_name: Callable[[], str]
) -> None:
    name = new_name()
    await shelf.collections.create(name, MODEL)
    people = [person(f"{name} {number}") for name in NAMES for number in range(10)]
    await shelf.put(name, people)
    async with aclosing(shelf.snapshots.taking(name)) as steps:
        async for step in steps:
            if step.done:
                break
        await all_steps(shelf.enriching.run(name))
        last = (await all_steps(steps))[-1]
    assert last.snapshot is not None

    restored = await shelf.snapshots.restore(name, last.snapshot.name)

    assert not restored.is_enriched
    await all_steps(shelf.enriching.run(restored.version))
    assert await _lacking(shelf, restored.version) == []


async def test_a_snapshot_of_an_enriched_version_has_its_keys(shelf: Shelf, new_name: Callable[[], str]) -> None:
    name = new_name()
    await shelf.collections.create(name, MODEL)
    await shelf.put(name, [person(name) for name in NAMES])
    await all_steps(shelf.enriching.run(name))
    taken = await shelf.snapshots.create(name)
    restored = await shelf.snapshots.restore(name, taken.name)
    assert restored.is_enriched
    assert await _lacking(shelf, restored.version) == []


async def test_keys_by_rules_of_another_release_are_left_alone(shelf: Shelf, new_collection: NewCollection) -> None:
    version = await new_collection()
    await shelf.collections.note(version, relations="keys-of-tomorrow")
    with pytest.raises(FailedPrecondition, match=r"keys-of-tomorrow.*reindex"):
        await all_steps(shelf.enriching.run(version))


async def test_the_report_tells_which_mentions_lead_somewhere(shelf: Shelf, new_collection: NewCollection) -> None:
    hermits = [person(f"Hermit {number}", "Ludwig Nobody", "Anna Abel", "Old Town") for number in range(30)]
    long = " of ".join(["Very Long"] * 7)
    version = await new_collection(
        passages=[person("Anna Abel", "Hermit 3"), *hermits, person("Nameless"), person("Wordy", long)]
    )
    report = (await all_steps(shelf.enriching.run(version, report=True)))[-1].report
    assert report is not None
    assert report.passages == 33
    # "This" begins a sentence and is no name; 30 of the 92 foreign mentions lead to Anna Abel, one to a hermit.
    assert report.leading_share == pytest.approx(31 / 92, abs=0.001)
    assert report.frequent == 3
    assert [(one.key, one.mentions, one.titles) for one in report.frequent_keys] == [
        ("anna abel", 31, 1), ("old town", 30, 0), ("ludwig nobody", 30, 0),
    ]  # fmt: skip
    assert report.frequent_share == pytest.approx(90 / 92, abs=0.001)
    assert {(one.key[:10], one.concern.name) for one in report.suspicious if one.concern} == {
        ("anna abel", "COMMON"), ("old town", "COMMON"), ("ludwig nob", "COMMON"), ("very long ", "LONG"),
    }  # fmt: skip


async def test_documents_say_other_things_with_the_vectors_that_they_have(
    keyed: Shelf, store: PassageStore, new_name: Callable[[], str]
) -> None:
    chunks = [
        Passage(chunk_id("log", number), f"Page {number}.", "The log", {"year": 1}, EAST, Chunk(number, 3, number, 9))
        for number in (1, 2, 3)
    ]
    version = await keyed_copy(keyed, new_name(), [*chunks, person("Anna Abel")])
    before = {row.passage.id: row for row in await rows_of(store, version)}

    said = Relations((), ("Anna Abel",), ("other",))
    stated = await keyed.statements.replace(version, [("log", said), ("gone", said)])

    assert (stated.missing, sorted(stated.changed)) == (["gone"], ["log", "log##2", "log##3"])
    after = {row.passage.id: row for row in await rows_of(store, version)}
    for passage_id in ("log", "log##2", "log##3"):
        assert after[passage_id].passage.relations == said
        assert np.array_equal(_vector(after[passage_id]), _vector(before[passage_id]))
        assert after[passage_id].passage.text == before[passage_id].passage.text
        assert after[passage_id].revision != before[passage_id].revision
    assert after["anna-abel"].revision == before["anna-abel"].revision
    reached = await expand(keyed, version, "log")
    assert ("anna-abel", PathKind.LINK) in [(one.passage.id, one.path[0].kind) for one in reached.passages]
    with pytest.raises(InvalidArgument, match="twice"):
        await keyed.statements.replace(version, [("log", said), ("log", said)])


async def test_after_random_edits_no_relation_dangles_and_all_answers_are_those_of_a_fresh_build(
    keyed: Shelf, store: PassageStore, new_name: Callable[[], str]
) -> None:
    chance = random.Random(11)
    version = (await keyed.collections.create(new_name(), MODEL)).version
    documents: dict[str, list[Passage]] = {}
    for _ in range(300):
        name = f"{chance.choice(NAMES)} {chance.randrange(4)}"
        document = name.lower().replace(" ", "-")
        known = [f"{chance.choice(NAMES)} {chance.randrange(4)}" for _ in range(3)]
        match chance.choice(["whole", "whole", "chunks", "delete", "relate"]):
            case "whole":
                documents[document] = [person(name, *known)]
                await keyed.put(version, documents[document])
            case "chunks":
                count = chance.randrange(2, 5)
                documents[document] = [
                    Passage(chunk_id(document, number), f"See {other}.", name, {}, EAST, Chunk(number, count, 0, 9))
                    for number, other in zip(range(1, count + 1), [*known, "Edith Cohn 1"], strict=False)
                ]
                await keyed.put(version, documents[document])
            case "delete":
                documents.pop(document, None)
                await keyed.passages.delete(version, [document])
            case "relate":
                said = Relations(
                    ("alias of " + document,), (chance.choice(known),), (chance.choice([*documents, "no"]),)
                )
                await keyed.statements.replace(version, [(document, said)])
                if document in documents:
                    documents[document] = [
                        Passage(one.id, one.text, one.title, one.metadata, one.vector, one.chunk, None, said)
                        for one in documents[document]
                    ]
    passages = [passage for chunks in documents.values() for passage in chunks]
    fresh = await keyed_copy(keyed, new_name(), passages)
    assert await words_of(store, version) == await words_of(store, fresh)
    there = {passage.id for passage in passages}
    for passage in passages[::3]:
        edited, built = [await expand(keyed, one, passage.id) for one in (version, fresh)]
        assert {one.passage.id for one in edited.passages} <= there
        assert edited.passages == built.passages


async def _lacking(shelf: Shelf, version: str) -> list[str]:
    """Ids of passages that lack keys, as a version that has them from the beginning tells."""
    info = await shelf.collections.get(version)
    assert info.relations == KEYS
    return [
        row.passage.id
        for row in await rows_of(shelf.store, version)
        if set(keyed_words(row.passage, info).indices) != set(row.words.indices)
    ]


def _vector(row: Row) -> Vector:
    assert row.passage.vector is not None
    return row.passage.vector
