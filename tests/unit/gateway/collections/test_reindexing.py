"""Writers, a rebuild and a switch, with their steps in an order that hypothesis draws.

The store below does what the retriever does, one step at a time.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.gateway.collections.following import Following, Writing
from services.gateway.collections.indexing import Indexing
from services.gateway.collections.reindexing import Phase, Reindexing
from services.gateway.collections.store import Begun, Comparison, Difference, Switched, Vectors, Written
from services.gateway.collections.verification import Check, CheckKind
from services.gateway.search.stages import Embedded, EmbeddedTokens
from sluice.type.v1 import collection_pb2, model_pb2, passage_pb2
from tests.unit.gateway import samples

Models = dict[str, tuple[str, str]]
"""Model and token model of each version; the latter may be empty."""
MODELS: Models = {"docs-v1": ("old", ""), "docs-v2": ("new", "")}


class World:
    """Retriever and embedders; every step of theirs waits for its turn.

    A vector says which model has made it of which text.
    """

    def __init__(self, chance: random.Random, models: Models = MODELS) -> None:
        self.models = models
        self.chance = chance
        self.waiting: list[asyncio.Future[None]] = []
        self.versions: dict[str, dict[str, tuple[str, str]]] = {"docs-v1": {}}
        self.alias, self.building, self.ready = "docs-v1", "", False
        self.revisions = itertools.count(1)
        self.served = {"old", "new", "late", "later"}
        self.embedded = 0
        self.begun: asyncio.Future[None] | None = None

    async def turn(self) -> None:
        mine = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        await mine

    async def run(self, *works: asyncio.Task[object]) -> None:
        while not all(work.done() for work in works):
            for _ in range(5):  # until all have come to a turn
                await asyncio.sleep(0)
            self.waiting = [turn for turn in self.waiting if not turn.done()]  # the others were killed
            if self.waiting:
                self.waiting.pop(self.chance.randrange(len(self.waiting))).set_result(None)
            for work in works:
                if work.done():
                    work.result()

    # The embedders

    async def embed_documents(self, texts: Sequence[str], *, collection: str, deadline: float) -> Embedded:
        await self.turn()
        model, _ = self.models[self.alias if collection == "docs" else collection]
        if model not in self.served:
            raise Unavailable("down")
        self.embedded += len(texts)
        return samples.embedded([vector_of(model, text) for text in texts], samples.model(model))

    async def embed_document_tokens(
        self, texts: Sequence[str], *, collection: str, deadline: float
    ) -> EmbeddedTokens | None:
        await self.turn()
        _, model = self.models[self.alias if collection == "docs" else collection]
        if model and model not in self.served:
            raise Unavailable("down")
        return samples.tokens_of([f"{model} {text}" for text in texts], samples.model(model)) if model else None

    async def live(self, collection: str, *, deadline: float) -> collection_pb2.CollectionVersion | None:
        # What was live at some time: it is cached.
        name = self.chance.choice(["docs-v1", self.alias]) if collection == "docs" else collection
        await self.turn()
        return self.described(name)

    def forget(self, collection: str) -> None:
        pass

    async def model_named(self, name: str, *, deadline: float) -> model_pb2.ModelInfo:
        return samples.model(name)

    async def token_model_like(self, fingerprint: str, *, deadline: float) -> model_pb2.ModelInfo:
        return samples.model(fingerprint or "late")

    # The live version

    def described(self, name: str) -> collection_pb2.CollectionVersion:
        model, token_model = self.models[name]
        tokens = samples.model(token_model) if token_model else None
        return samples.version(name, samples.model(model), len(self.versions.get(name, {})), tokens)

    async def collection(self, name: str, *, deadline: float) -> collection_pb2.CollectionVersion:
        return self.described(self.alias)

    async def create_collection(self, *_: object, **__: object) -> collection_pb2.CollectionVersion:
        raise AssertionError("exists")

    async def records(
        self, version: str, ids: Sequence[str], *, deadline: float
    ) -> Sequence[passage_pb2.PassageRecord]:
        found = []
        model, token_model = self.models[version]
        for identity in ids:
            await self.turn()
            if identity in self.versions[version]:
                text, revision = self.versions[version][identity]
                tokens = samples.tokens_of([f"{token_model} {text}"], samples.model("")).vectors[0]
                found.append(
                    passage_pb2.PassageRecord(
                        passage=samples.passage(identity, "", text),
                        vector=vector_of(model, text),
                        revision=revision,
                        tokens=tokens if token_model else None,
                    )
                )
        return found

    def check(self, version: str, texts: Sequence[str], vectors: Vectors) -> None:
        """Check that vectors are by the models of a version, of just these texts."""
        model, token_model = self.models[version]
        assert vectors.model_fingerprint == model
        assert list(vectors.dense) == [vector_of(model, text) for text in texts]
        assert vectors.token_model_fingerprint == token_model
        expected = [f"{token_model} {text}".encode() for text in texts] if token_model else []
        assert [tokens.values for tokens in vectors.tokens] == expected

    async def upsert(
        self,
        collection: str,
        passages: Sequence[passage_pb2.Passage],
        vectors: Vectors,
        *,
        batch: str = "",
        deadline: float,
    ) -> Written:
        while True:
            version = self.alias
            if (vectors.model_fingerprint, vectors.token_model_fingerprint) != self.models[version]:
                raise FailedPrecondition("switched", reason="MODEL_MISMATCH")
            self.check(version, [passage.text for passage in passages], vectors)
            await self.turn()
            revision = str(next(self.revisions))
            self.versions[version] |= {passage.id: (passage.text, revision) for passage in passages}
            await self.turn()
            if self.alias == version:
                return Written(len(passages), version, self.building, [passage.id for passage in passages])

    async def delete(self, collection: str, ids: Sequence[str], *, deadline: float) -> Written:
        while True:
            version = self.alias
            await self.turn()
            count = sum(self.versions[version].pop(identity, None) is not None for identity in ids)
            await self.turn()
            if self.alias == version:
                return Written(count, version, self.building, ids)

    # The version being built

    async def create_version(
        self, collection: str, model: model_pb2.ModelInfo, *, token_model: model_pb2.ModelInfo | None, deadline: float
    ) -> Begun:
        assert (model.fingerprint, token_model.fingerprint if token_model else "") == self.models["docs-v2"]
        self.versions.setdefault("docs-v2", {})
        self.ready = False
        await self.turn()
        self.building = "docs-v2"
        return Begun(self.described("docs-v2"), self.described("docs-v1"))

    def check_building(self, version: str) -> None:
        if self.building != version:
            raise FailedPrecondition("not building", reason="NOT_BUILDING")

    async def compare(
        self, collection: str, version: str, ids: Sequence[str], *, deadline: float
    ) -> Sequence[Difference]:
        await self.turn()
        self.check_building(version)
        return await self.differences(version, ids)

    async def compare_next(
        self, collection: str, version: str, *, building: bool, cursor: str, deadline: float
    ) -> Comparison:
        await self.turn()
        self.check_building(version)
        side = sorted(self.versions[version if building else self.alias])
        page = [identity for identity in side if identity > cursor][:2]
        following = page[-1] if page and page[-1] != side[-1] else ""
        return Comparison(await self.differences(version, page), len(page), following)

    async def differences(self, version: str, ids: Sequence[str]) -> Sequence[Difference]:
        await self.turn()
        built = dict(self.versions[version])
        await self.turn()
        self.check_building(version)
        live = self.alias
        await self.turn()
        current = self.versions[live]
        differences = []
        for identity in ids:
            text, revision = current.get(identity, ("", ""))
            _, building_revision = built.get(identity, ("", ""))
            if revision != building_revision:
                passage = samples.passage(identity, "", text) if revision else None
                differences.append(Difference(identity, passage, revision, building_revision))
        return differences

    async def copy(
        self,
        version: str,
        differences: Sequence[Difference],
        vectors: Vectors,
        gone: Sequence[Difference],
        *,
        deadline: float,
    ) -> None:
        texts = [difference.passage.text for difference in differences if difference.passage is not None]
        if texts:
            self.check(version, texts, vectors)
        # Qdrant ends what it has begun, even if its caller has died.
        self.begun = asyncio.ensure_future(self._copy(version, differences, gone))
        await asyncio.shield(self.begun)

    async def _copy(self, version: str, differences: Sequence[Difference], gone: Sequence[Difference]) -> None:
        await self.turn()
        points = self.versions[version]
        for difference in differences:
            assert difference.passage is not None
            if points.get(difference.id, ("", ""))[1] == difference.building_revision:
                points[difference.id] = (difference.passage.text, difference.revision)
        await self.turn()
        for difference in gone:
            if points.get(difference.id, ("", ""))[1] == difference.building_revision:
                points.pop(difference.id, None)

    async def complete_version(self, version: str, *, deadline: float) -> None:
        await self.turn()
        self.check_building(version)
        self.ready = True

    async def abandon_version(self, version: str, *, deadline: float) -> None:
        await self.turn()
        if self.alias != version:
            self.ready, self.building = False, ""

    async def switch(self, collection: str, version: str, *, deadline: float) -> Switched:
        await self.turn()
        if not self.ready:
            raise FailedPrecondition("not ready", reason="VERSION_NOT_READY")
        before, self.alias, self.building = self.alias, version, ""
        return Switched(self.described(version), before)

    async def verify(self, collection: str, version: str, *, deadline: float) -> list[Check]:
        return [Check(CheckKind.COUNT, True, "")]


class Gateway:
    """The result of the gateway over a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        following = Following(world, world)  # type: ignore[arg-type]
        self.writing = Writing(world, following)
        self.indexing = Indexing(world, world, self.writing)  # type: ignore[arg-type]
        self.reindexing = Reindexing(world, world, following, world)  # type: ignore[arg-type]

    async def write(self, operations: Sequence[tuple[str, bool]], writer: int) -> dict[str, str]:
        """Stores and deletes, one after the other; returns the texts that it expects in the end."""
        believed = {}
        for number, (identity, stores) in enumerate(operations):
            if stores:
                text = f"{writer}.{number}"
                await self.indexing.index("docs", [samples.passage(identity, "", text)], deadline=0)
                believed[identity] = text
            else:
                await self.writing.delete("docs", [identity], deadline=0)
                believed[identity] = ""
        return believed

    async def rebuild_killed(self, turns: int, until: Phase) -> None:
        """Begins anew after it was killed at some turn."""
        first = asyncio.ensure_future(self.rebuild(until))
        for _ in range(turns):
            if first.done():
                return
            await self.world.turn()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        if self.world.begun is not None:
            await self.world.begun
        if self.world.alias == "docs-v1":
            await self.rebuild(until)

    async def rebuild(self, until: Phase) -> None:
        """Does part after part, until the next one is of a later phase."""
        cursor = ""
        while True:
            model, token_model = self.world.models["docs-v2"]
            progress = await self.reindexing.advance("docs", model, cursor, token_vectors=bool(token_model), deadline=0)
            cursor = progress.next_cursor
            following = json.loads(base64.urlsafe_b64decode(cursor))["phase"] if cursor else ""
            if progress.phase is until and following != until.name:
                return


def vector_of(model: str, text: str) -> bytes:
    return f"{model} {text}".encode()


CHOICES = st.fixed_dictionaries(
    {
        "docs-v1": st.tuples(st.just("old"), st.sampled_from(["", "late"])),
        "docs-v2": st.tuples(st.sampled_from(["old", "new"]), st.sampled_from(["", "late"])),
    }
)
OPERATIONS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=4)
CHANCES = st.randoms(use_true_random=False)


async def start(world: World) -> Gateway:
    world.versions["docs-v1"] = {identity: (f"first {identity}", f"0{identity}") for identity in "abcd"}
    return Gateway(world)


@settings(max_examples=100)
@given(CHANCES, st.lists(OPERATIONS, max_size=3), st.integers(0, 40), CHOICES)
def test_after_a_rebuild_both_versions_hold_the_same_whoever_wrote_the_same_passages_meanwhile(
    chance: random.Random, writers: Sequence[Sequence[tuple[str, bool]]], turns: int, models: Models
) -> None:
    async def scenario() -> None:
        world = World(chance, models)
        gateway = await start(world)
        rebuild = asyncio.ensure_future(gateway.rebuild_killed(turns, Phase.SWEEP))
        writes = [asyncio.ensure_future(gateway.write(each, number)) for number, each in enumerate(writers)]
        await world.run(rebuild, *writes)
        assert world.versions["docs-v2"] == world.versions["docs-v1"]

    asyncio.run(scenario())


@settings(max_examples=100)
@given(CHANCES, OPERATIONS, OPERATIONS, st.integers(0, 60), CHOICES)
def test_nothing_that_was_answered_is_lost_by_a_switch_nor_by_a_rebuild_that_dies(
    chance: random.Random,
    first: Sequence[tuple[str, bool]],
    second: Sequence[tuple[str, bool]],
    turns: int,
    models: Models,
) -> None:
    async def scenario() -> None:
        world = World(chance, models)
        gateway = await start(world)
        rebuild = asyncio.ensure_future(gateway.rebuild_killed(turns, Phase.SWITCHED))
        # Each writer has ids of its own, so that what is there in the end is known.
        others = [(identity.upper(), stores) for identity, stores in second]
        writes = [asyncio.ensure_future(gateway.write(each, number)) for number, each in enumerate((first, others))]
        await world.run(rebuild, *writes)
        assert world.alias == "docs-v2"
        expected = {identity: f"first {identity}" for identity in "abcd"}
        for write in writes:
            expected |= write.result()
        found = {identity: text for identity, (text, _) in world.versions["docs-v2"].items()}
        assert found == {identity: text for identity, text in expected.items() if text}

    asyncio.run(scenario())


async def rebuilt(models: Models) -> World:
    world = World(random.Random(1), models)
    gateway = await start(world)
    await world.run(asyncio.ensure_future(gateway.rebuild(Phase.SWITCHED)))
    assert world.alias == "docs-v2"
    return world


async def test_vectors_are_copied_and_not_computed_anew_where_the_model_stays() -> None:
    assert (await rebuilt({"docs-v1": ("old", ""), "docs-v2": ("old", "late")})).embedded == 0
    assert (await rebuilt({"docs-v1": ("old", "late"), "docs-v2": ("new", "late")})).embedded == 4


async def test_writing_goes_on_when_nothing_embeds_for_the_version_being_built() -> None:
    world = World(random.Random(1))
    gateway = await start(world)
    world.served = {"old"}
    world.versions["docs-v2"], world.building = {}, "docs-v2"
    write = asyncio.ensure_future(gateway.write([("a", True)], 1))
    await world.run(write)
    assert (world.building, world.ready, world.versions["docs-v1"]["a"][0]) == ("", False, "1.0")


@pytest.mark.parametrize("cursor", ["nonsense", "e30=", "bm9uc2Vuc2U="])
async def test_a_cursor_that_no_answer_gave_is_refused(cursor: str) -> None:
    gateway = await start(World(random.Random(1)))
    with pytest.raises(InvalidArgument, match="cursor"):
        await gateway.reindexing.advance("docs", "new", cursor, deadline=0)
