"""Relations of collections: following them from the candidates of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.chassis.timing import both
from services.late.codes import best_products, similarity
from services.retriever.collections.catalogue import Collections
from services.retriever.collections.descriptions import CollectionInfo
from services.retriever.documents import Passage
from services.retriever.fields import Filter
from services.retriever.relations.hops import RULES, Path, PathKind, Reached, Rules, best_of, follow
from services.retriever.relations.keys import KEYS
from services.retriever.rows import check_ids
from services.retriever.search.searches import MAX_CANDIDATES, MAX_QUERY_BYTES, LateQuery
from services.retriever.store import Deadline, Parts, PassageStore, PointId, point_id
from sluice.type.v1 import relation_pb2

MAX_HOPS = 2


class Seed(NamedTuple):
    """A candidate that relations are followed from."""

    id: str
    score: float


class Step(NamedTuple):
    """One step of a path."""

    kind: PathKind
    passage_id: str
    """Of the bridge; empty where the question leads on."""
    key: str
    weight: float

    def to_proto(self) -> relation_pb2.RelationStep:
        """Write the step."""
        return relation_pb2.RelationStep(
            kind=self.kind.to_proto(), passage_id=self.passage_id, key=self.key, weight=self.weight
        )


@dataclass(frozen=True, slots=True)
class Related:
    """A passage that a path leads to."""

    passage: Passage
    """Of a candidate the id alone."""
    score: float
    path: Sequence[Step]
    late_score: float | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """Outcome of following relations."""

    passages: Sequence[Related]
    bridges: Sequence[Passage]
    version: str
    reached: Reached


class Relating:
    """Follows relations between passages."""

    def __init__(self, store: PassageStore, collections: Collections, rules: Rules = RULES) -> None:
        self._store = store
        self._collections = collections
        self._rules = rules

    async def expand(
        self,
        collection: str,
        question: str,
        seeds: Sequence[Seed],
        *,
        hops: int,
        limit: int,
        condition: Filter,
        late: LateQuery | None = None,
        deadline: Deadline = None,
    ) -> Expansion:
        """Return what relations lead to from these candidates, as far as it is among the first `limit`; see `hops`.

        Raises FailedPrecondition (NOT_ENRICHED) if the collection's passages have no keys.
        """
        _check(question, seeds, hops, limit)

        async def expand(info: CollectionInfo) -> Expansion:
            _check_enriched(info)
            if late is not None:
                info.check_token_model(late.fingerprint)
                info.check_tokens(late.tokens, "tokens")
            fitted = info.fitted(condition)

            async def holders(
                terms: Sequence[int], most: int, among: Sequence[PointId] = ()
            ) -> Sequence[Sequence[PointId]]:
                return await self._store.holders(info.version, terms, most, fitted, deadline, among)

            async def read(points: Sequence[PointId]) -> dict[PointId, Passage]:
                rows = await self._store.read(info.version, points, Parts.PASSAGE, deadline) if points else ()
                return {row.id: row.passage for row in rows}

            names = {point_id(seed.id): seed.id for seed in seeds}
            candidates = [(point, seed.score) for point, seed in zip(names, seeds, strict=True)]
            words = info.bm25.query_vector(question).indices
            total = info.passage_count
            reached = await follow(question, words, candidates, total, hops, holders, read, self._rules)
            best = [point for point in best_of(reached.scores, limit) if point in reached.paths]
            found, late_scores = await both(
                read([point for point in best if point not in names]),
                self._compare(info, late, best, reached, deadline),
            )
            found |= {point: Passage(names[point]) for point in best if point in names}
            ways = {point: _way(point, reached) for point in best if point in found}
            ids = {point: passage.id for point, passage in (found | reached.bridges).items()}
            passages = [
                Related(
                    found[point],
                    reached.scores[point],
                    [Step(one.kind, ids.get(one.bridge, ""), one.key, one.weight) for one in way],
                    late_scores.get(point),
                )
                for point, way in ways.items()
            ]
            used = {path.bridge for way in ways.values() for path in way}
            bridges = [passage for point, passage in reached.bridges.items() if point in used]
            return Expansion(passages, bridges, info.version, reached)

        return await self._collections.using(collection, expand, deadline)

    async def _compare(
        self,
        info: CollectionInfo,
        late: LateQuery | None,
        points: Sequence[PointId],
        reached: Reached,
        deadline: Deadline,
    ) -> dict[PointId, float]:
        """Compare passages with a query by token vectors, if there are any, each together with its bridge."""
        if late is None:
            return {}
        wanted = dict.fromkeys(point for one in points for point in (one, reached.paths[one].bridge) if point)
        rows = await self._store.read(info.version, list(wanted), Parts.TOKENS, deadline)
        products = {
            row.id: best_products(late.tokens, row.passage.tokens) for row in rows if row.passage.tokens is not None
        }
        scores = {}
        for point in points:
            if (own := products.get(point)) is not None:
                bridge = products.get(reached.paths[point].bridge, own)
                # By itself, and as what completes its bridge: each alone ranks worse (docs/quality.md).
                mean = (own + own.clip(min=bridge)) / 2
                scores[point] = similarity(float(mean.sum()), *late.tokens.shape)
        return scores


def _way(point: PointId, reached: Reached) -> list[Path]:
    """Return the steps to a passage, the first one first."""
    steps = [reached.paths[point]]
    while (before := reached.paths.get(steps[0].bridge)) is not None and 0 < before.hop < steps[0].hop:
        steps.insert(0, before)
    return steps


def _check(question: str, seeds: Sequence[Seed], hops: int, limit: int) -> None:
    check_ids(seeds, "candidates", MAX_CANDIDATES)
    if len({seed.id for seed in seeds}) < len(seeds):
        raise InvalidArgument("candidates", "holds a passage twice; send each once")
    for place, seed in enumerate(seeds):
        if not seed.id:
            raise InvalidArgument(f"candidates[{place}].id", "is empty; name a passage")
    if len(question.encode()) > MAX_QUERY_BYTES:
        raise InvalidArgument("query", f"is longer than {MAX_QUERY_BYTES} bytes")
    if not 1 <= hops <= MAX_HOPS:
        raise InvalidArgument("max_hops", f"is {hops}; send 1 to {MAX_HOPS}")
    if not 1 <= limit <= MAX_CANDIDATES:
        raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_CANDIDATES}")


def _check_enriched(info: CollectionInfo) -> None:
    if info.relations == KEYS and info.is_enriched:
        return
    lack = "are being given the keys" if info.enriching else "have no keys"
    raise FailedPrecondition(
        f"the passages of {info.collection!r} {lack} by which they are related; run `sluice enrich {info.collection}`",
        reason="NOT_ENRICHED",
        collection=info.version,
    )
