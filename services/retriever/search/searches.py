"""Searches for one question, and the one order of all that they find."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from services.chassis import logs
from services.chassis.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from services.chassis.timing import answer_by
from services.late.codes import Codes, similarity
from services.retriever.documents import Passage, Vector
from services.retriever.fields import Filter
from services.retriever.layout import Layout
from services.retriever.lexical import Bm25, SparseVector
from services.retriever.search.fusion import Found, Fused, Order, fuse
from services.retriever.store import PLAIN, Deadline, PassageStore, PointId

MAX_VARIANTS = 16
MAX_QUERY_BYTES = 16_384
MAX_CANDIDATES = 1000

_log = logs.get_logger("searches")


@dataclass(frozen=True, slots=True)
class QueryVariant:
    """One way to ask: by words, by vector, or both."""

    text: str
    vector: Vector | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LateQuery:
    """Token vectors of a question, by which the best passages are compared with it."""

    tokens: Codes
    fingerprint: str
    """Of the model that made them."""
    count: int
    """Number of the passages."""

    def check(self) -> None:
        """Raise InvalidArgument for what makes no sense."""
        if not self.fingerprint:
            raise InvalidArgument("token_model_fingerprint", "is empty; send that of the model that made the tokens")
        if not 0 <= self.count <= MAX_CANDIDATES:
            raise InvalidArgument("late_count", f"is {self.count}; send 0 to {MAX_CANDIDATES}")


class Search(NamedTuple):
    """One of the searches that are fused."""

    by: Vector | SparseVector
    weight: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found."""

    passage: Passage
    score: float
    whole: bool
    """False if only the passage's id and chunk were read."""
    late_score: float | None = None
    """Mean over the question's tokens of the best cosine with one of the passage's; None if it was not compared."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Candidates, best first, and the version that they come from.

    Scores are those of the fusion, or of the only search that ran (a cosine, or BM25): comparable within one result.
    """

    candidates: Sequence[Candidate]
    version: str
    fused_searches: int
    seconds: float


async def find(  # noqa: PLR0913  all that a search holds
    store: PassageStore,
    version: str,
    searches: Sequence[Search],
    limit: int,
    condition: Filter,
    *,
    block: int,
    deadline: Deadline,
    layout: Layout = PLAIN,
    without: frozenset[PointId] = frozenset(),
) -> list[Fused[str]]:
    """Return the best points of all searches together, without these; of a single search with its own scores.

    The order does not depend on the limit: it is made in blocks, the first of `block` passages (see `fusion`).
    """
    order: Order[str] = Order()
    depth, deepest = min(block, MAX_CANDIDATES), False
    while not deepest:
        found = await store.search(version, [search.by for search in searches], depth, condition, deadline, layout)
        whole = [len(hits) < depth for hits in found]
        if without:
            found = [[hit for hit in hits if hit[0] not in without] for hits in found]
        if len(searches) == 1:
            fused = [Fused(point, score) for point, score in found[0][:limit]]
        else:
            fused = fuse(
                [
                    Found(hits, search.weight, whole=all_of_them)
                    for search, hits, all_of_them in zip(searches, found, whole, strict=True)
                ],
                limit,
            )
        ended = all(whole)
        order.extend(fused, None if ended else depth)
        deepest = ended or len(order) >= limit or depth == MAX_CANDIDATES
        depth = min(2 * depth, MAX_CANDIDATES)
    return order.best(limit)


async def compare(
    store: PassageStore, version: str, late: LateQuery | None, points: Sequence[PointId], deadline: Deadline
) -> Mapping[PointId, float]:
    """Return the scores of the best of these points by token vectors; of those without any there are none.

    There are none at all where the store fails or has no time for it: what was found is an answer without them.
    """
    if late is None or not (best := points[: late.count]):
        return {}
    until = answer_by(time.monotonic(), deadline) if deadline is not None else None
    try:
        scores = await store.compare(version, late.tokens, best, until)
    except (DeadlineExceeded, ResourceExhausted, Unavailable) as failure:
        _log.warning("candidates are not compared by token vectors", version=version, problem=failure.message)
        return {}
    return {point: similarity(score, *late.tokens.shape) for point, score in scores.items()}


def plan(variants: Sequence[QueryVariant], dense_weight: float, lexical_weight: float, bm25: Bm25) -> list[Search]:
    """Return the searches for these variants, each variant's dense one before its lexical one."""
    searches: list[Search] = []
    for variant in variants:
        if variant.vector is not None and dense_weight > 0:
            searches.append(Search(unit(variant.vector), variant.weight * dense_weight))
        if lexical_weight > 0 and (words := bm25.query_vector(variant.text)).indices:
            searches.append(Search(words, variant.weight * lexical_weight))
    return searches


def check_search(
    variants: Sequence[QueryVariant], like: str, limit: int, dense_weight: float, lexical_weight: float, model: str
) -> None:
    """Raise InvalidArgument for a search that makes no sense; `like` is the document that is searched for, if any."""
    if not 1 <= limit <= MAX_CANDIDATES:
        raise InvalidArgument("limit", f"is {limit}; send 1 to {MAX_CANDIDATES}")
    for name, weight in (("dense_weight", dense_weight), ("lexical_weight", lexical_weight)):
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidArgument(name, f"is {weight}; send 0 or more")
    if not (like or variants) or len(variants) > MAX_VARIANTS:
        raise InvalidArgument("variants", f"has {len(variants)} variants; send 1 to {MAX_VARIANTS}")
    for place, variant in enumerate(variants):
        path = f"variants[{place}]"
        if not (math.isfinite(variant.weight) and variant.weight > 0):
            raise InvalidArgument(f"{path}.weight", f"is {variant.weight}; send more than 0")
        if len(variant.text.encode()) > MAX_QUERY_BYTES:
            raise InvalidArgument(f"{path}.text", f"is longer than {MAX_QUERY_BYTES} bytes")
        if variant.vector is not None and not model:
            raise InvalidArgument("model_fingerprint", "is empty; send that of the model that made the vectors")
    by_vector = dense_weight > 0 and any(variant.vector is not None for variant in variants)
    by_words = lexical_weight > 0 and any(variant.text.strip() for variant in variants)
    by_likeness = like and (dense_weight > 0 or lexical_weight > 0)
    if not (by_vector or by_words or by_likeness):
        raise InvalidArgument("variants", "leave nothing to search with: send a text or a vector that has weight")


def unit(vector: Vector) -> Vector:
    """Return the vector at length 1; one of zeros as it is."""
    length = np.linalg.norm(vector.astype(np.float64))
    unit: Vector = (vector / (length or 1.0)).astype(np.float32)
    return unit
