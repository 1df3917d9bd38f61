from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.retriever.chunks import Chunk, chunk_id, later_ids, outdated_ids


@dataclass(frozen=True)
class Stored:
    id: str
    chunk: Chunk | None


def document(count: int) -> list[Stored]:
    if count == 1:
        return [Stored("a", None)]
    return [Stored(chunk_id("a", number), Chunk("a", number, count, 0, 1)) for number in range(1, count + 1)]


def apply(shelf: dict[str, Chunk | None], steps: list[tuple[str, Stored | None]]) -> None:
    for identity, stored in steps:
        if stored is None:
            shelf.pop(identity, None)
        else:
            shelf[identity] = stored.chunk


def storing(shelf: dict[str, Chunk | None], count: int) -> list[tuple[str, Stored | None]]:
    parts = document(count)
    outdated = outdated_ids(parts, {part.id: shelf[part.id] for part in parts if part.id in shelf})
    return [(identity, None) for identity in outdated] + [(part.id, part) for part in parts]


def deleting(shelf: dict[str, Chunk | None]) -> list[tuple[str, Stored | None]]:
    later = later_ids("a", shelf["a"]) if "a" in shelf else []
    return [(identity, None) for identity in [*later, "a"]]


# How many chunks the document has then, 0 if it is deleted; and after how many steps a crash comes.
histories = st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(0, 12)), max_size=8)


@given(history=histories, last=st.integers(0, 6))
def test_whatever_was_cut_short_before_nothing_is_left_of_it(history: list[tuple[int, int | None]], last: int) -> None:
    shelf: dict[str, Chunk | None] = {}
    for count, crash in [*history, (last, None)]:
        steps = storing(shelf, count) if count else deleting(shelf)
        apply(shelf, steps[:crash])
    assert shelf == ({part.id: part.chunk for part in document(last)} if last else {})
