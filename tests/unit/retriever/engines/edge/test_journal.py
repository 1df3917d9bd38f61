"""Writes since the last flush, for the day when the engine's log cannot be read."""

import pytest

from services.retriever.engines.edge.journal import Journal

CHANGES = [["write", [["p1", "r1"], ["p2", "r1"]]], ["remove", ["p1"]], ["write", [["p3", "r2"]]]]


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "journal")
    for method, changes in CHANGES:
        journal.record(method, changes)
    journal.close()
    return tmp_path / "journal"


def test_changes_come_back_in_their_order_and_not_after_a_flush(path):
    journal = Journal(path)
    assert list(journal.changes()) == CHANGES
    journal.clear()
    assert list(journal.changes()) == []
    journal.record(*CHANGES[1])
    assert list(journal.changes()) == CHANGES[1:2]
    journal.close()


def test_an_entry_that_a_kill_cut_off_is_left_out_wherever_it_was_cut(path):
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        found = list(Journal(path).changes())
        assert found == CHANGES[: len(found)]
        assert len(found) < len(CHANGES)
