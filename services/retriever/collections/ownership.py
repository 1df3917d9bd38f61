"""First passages of documents, which say whose the documents are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from services.chassis.errors import PermissionDenied
from services.retriever.documents import Owners, Passage
from services.retriever.store import Deadline, Parts, PassageStore, Row, point_id

# Whole passages, of which the text is dropped again.
_READ_AT_ONCE = 16


async def first_passages(
    store: PassageStore, version: str, ids: Iterable[str], deadline: Deadline, owners: Owners = ()
) -> dict[str, Passage]:
    """Return the first passage of each document that exists and is of the owners, by its id, without its text."""
    points = [point_id(document_id) for document_id in dict.fromkeys(ids)]
    rows: Sequence[Row] = []
    if owners:
        for start in range(0, len(points), _READ_AT_ONCE):
            some = await store.read(version, points[start : start + _READ_AT_ONCE], Parts.PASSAGE, deadline)
            rows = [*rows, *(_without_text(row) for row in some if row.passage.is_of(owners))]
    else:
        rows = await store.read(version, points, Parts.KEYS, deadline)
    return {row.passage.id: row.passage for row in rows if row.passage.document_id == row.passage.id}


async def check_owners(
    store: PassageStore, version: str, passages: Sequence[Passage], owners: Owners, deadline: Deadline
) -> None:
    """Raise PermissionDenied if a document of the passages is stored, and is not of the owners."""
    if not owners:
        return
    taken = await first_passages(store, version, {passage.document_id for passage in passages}, deadline)
    own = await first_passages(store, version, taken, deadline, owners)
    if others := sorted(taken.keys() - own):
        raise PermissionDenied(
            f"the id {others[0]!r} is taken by a document of another; choose another id", reason="NOT_OWN"
        )


def _without_text(row: Row) -> Row:
    return row._replace(passage=replace(row.passage, text=""))
