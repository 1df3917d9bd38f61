"""A store in a dictionary, with the calls that snapshots make; something may happen before each of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from services.chassis.errors import AlreadyExists, NotFound
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionModel
from services.retriever.collections.versions import Versions
from services.retriever.documents import Passage
from services.retriever.lexical import Bm25
from services.retriever.store import Catalogue, Description, Parts, Row, point_id

MODEL = CollectionModel("tiny", "tiny@1", 3, "fp32")
BM25 = Bm25(k1=1.2, b=0.75, average_length=10)


class ListedStore:
    """Versions in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = {}
        self.notes: dict[str, dict[str, object]] = {}
        self.layouts: dict[str, object] = {}
        self.aliases: dict[str, str] = {}
        self.before_call: Callable[[], None] = lambda: None
        self.at_last_pass: dict[str, tuple[object, ...]] = {}
        """Content of a version when it was last gone through from its beginning."""

    def put(self, version: str, passage_id: str, text: str) -> None:
        """Write a passage, with a new revision."""
        vector = np.random.default_rng(len(text)).normal(size=3).astype(np.float32)
        # Of some passages only, as no engine asks for them.
        tokens = np.arange(10 * (len(text) % 3), dtype=np.uint8).reshape(-1, 5) if len(text) % 3 else None
        metadata = {"length": len(text), "tags": ["a"]}
        passage = Passage(passage_id, text, f"title of {passage_id}", metadata, vector, tokens=tokens)
        row = Row(point_id(passage_id), passage, uuid.uuid4().hex, BM25.passage_vector(text, passage.title))
        self.rows[version][row.id] = row

    def drop_passage(self, version: str, passage_id: str) -> None:
        self.rows[version].pop(point_id(passage_id), None)

    def content(self, version: str) -> dict[str, tuple[object, ...]]:
        """All that is kept of the passages, to compare."""
        return {
            point: (
                replace(row.passage, vector=None, tokens=None),
                row.passage.vector.tolist(),
                None if row.passage.tokens is None else row.passage.tokens.tolist(),
                row.revision,
                row.words.indices,
                np.array(row.words.values, np.float32).tolist(),
            )
            for point, row in self.rows[version].items()
        }

    async def catalogue(self, deadline):
        return Catalogue(list(self.rows), dict(self.aliases))

    async def describe(self, name, deadline):
        version = self.aliases.get(name, name)
        if version not in self.rows:
            raise NotFound(f"no {name}")
        return Description(version, dict(self.notes[version]), len(self.rows[version]))

    async def create(self, version, dimension, layout, notes, deadline, token_dimension=0):
        if version in self.rows:
            raise AlreadyExists(version)
        self.rows[version], self.notes[version], self.layouts[version] = {}, dict(notes), layout

    async def declare(self, version, schema, deadline, tenant=""):
        pass

    async def note(self, version, notes, deadline):
        self.notes[version] |= notes

    async def drop(self, version, deadline):
        for kept in (self.rows, self.notes, self.layouts):
            kept.pop(version, None)

    async def point(self, alias, version, deadline):
        self.aliases[alias] = version

    async def write(self, version, rows, deadline, still=None):
        self.rows[version] |= {row.id: row for row in rows}

    async def remove(self, version, ids, deadline, still=None):
        for point in ids:
            self.rows[version].pop(point, None)

    async def read(self, version, ids, parts, deadline, keys=()):
        self.before_call()
        return [self.rows[version][point] for point in ids if point in self.rows[version]]

    async def scroll(self, version, start, limit, parts, deadline, condition=None):
        self.before_call()
        if start is None:
            self.at_last_pass = self.content(version)
        points = sorted(point for point in self.rows[version] if start is None or point >= start)
        found = [self.rows[version][point] for point in points[:limit]]
        assert parts is Parts.KEYS
        return found, points[limit] if len(points) > limit else None

    async def count(self, version, deadline, condition=None):
        self.before_call()
        return len(self.rows[version])


async def filled(count: int) -> tuple[ListedStore, Collections, Versions]:
    """A store with a collection `docs` of some passages, and the domain over it."""
    store = ListedStore()
    collections = Collections(store, BM25)
    await collections.create("docs", MODEL)
    for number in range(count):
        store.put("docs-v1", f"p{number}", f"text of number {number}")
    return store, collections, Versions(store, collections)
