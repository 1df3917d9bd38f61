from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluice_cli.calls import Problem
from sluice_cli.indexing.records import BEGINNING, Mark, Reject
from sluice_cli.indexing.rejects import Rejects


def _written(path: Path) -> list[int]:
    return [
        json.loads(line).get("line") or json.loads(line)["file"]
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("line", [True, False])
def test_a_resumed_run_keeps_what_is_behind_its_mark_and_nothing_else(tmp_path: Path, line: bool) -> None:
    path = tmp_path / "rejects.jsonl"
    with Rejects(path, BEGINNING) as first:
        for place in (2, 9, 5):
            first.add(Reject(place if line else None, "", "bad", place))
    with path.open("a") as stream:
        stream.write('{"line": 4, "id": "half wri')
    with Rejects(path, Mark(5, 0)) as resumed:
        assert resumed.count == 2
        resumed.add(Reject(7 if line else None, "", "bad", 7))
    assert _written(path) == [2, 5, 7]
    assert resumed.count == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["rejects.jsonl"]


def test_what_lies_beyond_the_mark_alone_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "rejects.jsonl"
    with Rejects(path, BEGINNING) as first:
        first.add(Reject(9, "", "bad"))
    with Rejects(path, Mark(5, 0)) as resumed:
        assert resumed.count == 0
    assert not path.exists()


def test_a_full_disk_is_told_with_a_remedy() -> None:
    rejects = Rejects(Path("/dev/full"), BEGINNING)
    rejects.add(Reject(1, "", "bad"))
    with pytest.raises(Problem, match="/dev/full cannot be written: No space left") as caught:
        rejects.sync()
    assert "--rejects" in caught.value.remedy
    with pytest.raises(Problem, match="No space left"):
        rejects.__exit__(None, None, None)


def test_what_is_no_file_is_written_to_and_stays() -> None:
    with Rejects(Path("/dev/null"), BEGINNING) as rejects:
        rejects.add(Reject(1, "", "bad"))
        rejects.sync()
    assert Path("/dev/null").is_char_device()
