from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_cli.calls import Problem
from sluice_cli.indexing.checkpoint import Checkpoint, Counts, Ledger, Settled
from sluice_cli.indexing.records import BEGINNING, Mark

RUN = {"source": "/data/corpus.jsonl", "state": "7 bytes", "index": "documents@1"}
SETTLED = Settled(Mark(3, 70), Counts(2, 5, 1))


@given(data=st.data())
def test_whatever_has_ended_the_mark_is_right_before_the_first_record_that_has_not(data: st.DataObject) -> None:
    rejected = data.draw(st.lists(st.booleans(), max_size=30))
    documents = [place for place, reject in enumerate(rejected, start=1) if not reject]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(documents)), max_size=6)) | {0, len(documents)})
    batches = [documents[start:end] for start, end in pairwise(cuts) if start < end]
    finished = [batch for batch in data.draw(st.permutations(batches)) if data.draw(st.booleans())]

    ledger = Ledger(Settled())
    for place, reject in enumerate(rejected, start=1):
        (ledger.pass_over if reject else ledger.take)(Mark(place, 10 * place))
    for batch in finished:
        ledger.end(batch, Counts(len(batch), 2 * len(batch)))

    ended = {place for batch in finished for place in batch}
    waiting = [place for place in documents if place not in ended]
    expected = (min(waiting) if waiting else len(rejected) + 1) - 1
    assert ledger.settled.mark == Mark(expected, 10 * expected)
    stored = sum(place <= expected for place in documents)
    assert ledger.settled.counts == Counts(stored, 2 * stored)


def test_rejects_in_a_row_take_no_more_room_than_one() -> None:
    ledger = Ledger(Settled())
    ledger.take(Mark(1, 1))
    for place in range(2, 1000):
        ledger.pass_over(Mark(place, place))
    assert len(ledger._open) == 2
    ledger.end([1], Counts(1))
    assert ledger.settled == Settled(Mark(999, 999), Counts(1))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    Checkpoint(path, RUN).save(SETTLED)
    assert Checkpoint(path, RUN).load() == (SETTLED, "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.json"]


def test_without_a_checkpoint_a_run_begins_at_the_beginning(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.json", RUN)
    assert checkpoint.load() == (Settled(), "")
    checkpoint.save(SETTLED)
    checkpoint.clear()
    assert checkpoint.load() == (Settled(), "")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "8 bytes"}, "the source has changed"),
        ({"index": "documents@2"}, "the collection is another one"),
        ({"source": "/data/other.jsonl"}, "is of another run (source)"),
        ({"new_option": 1}, "is of another run (new_option)"),
    ],
)
def test_another_run_begins_at_the_beginning_and_knows_why(tmp_path: Path, change: dict[str, str], why: str) -> None:
    path = tmp_path / "checkpoint.json"
    Checkpoint(path, RUN).save(SETTLED)
    settled, said = Checkpoint(path, RUN | change).load()
    assert settled == Settled()
    assert why in said


@given(length=st.integers(0, 200))
def test_a_half_written_checkpoint_is_never_believed(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("half") / "checkpoint.json"
    Checkpoint(path, RUN).save(SETTLED)
    whole = path.read_text()
    path.write_text(whole[:length])
    try:
        settled, why = Checkpoint(path, RUN).load()
    except Problem:  # so little that it may be anybody's
        assert 0 < length < len('{"sluice_checkpoint": 1')
    else:
        assert (settled, bool(why)) == ((SETTLED, False) if length >= len(whole) else (Settled(), True))


def test_a_file_of_somebody_else_is_neither_believed_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(json.dumps({"mine": True}))
    with pytest.raises(Problem, match=r"notes\.json is no checkpoint"):
        Checkpoint(path, RUN).load()


def test_a_checkpoint_of_nothing_is_none(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    Checkpoint(path, RUN).save(Settled(BEGINNING))
    assert Checkpoint(path, RUN | {"index": "other"}).load() == (Settled(), "")
