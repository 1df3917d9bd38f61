from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from services.chassis.audit import trail as module
from services.chassis.audit.chain import Chain
from services.chassis.audit.trail import AuditTrail
from services.chassis.errors import StartupError, Unavailable


def record(number: int, **fields: Any) -> dict[str, Any]:
    return {"time": 1e9 + number, "n": number, **fields}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_records_are_lines_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "gateway.jsonl"
    trail = AuditTrail(file)
    for number in range(100):
        trail.add(record(number, text="Zoë\n"), change=True)
    trail.close()
    found = lines(file)
    assert [line["n"] for line in found] == list(range(100))
    assert found[0]["time"] == "2001-09-09T01:46:40.000+00:00"
    assert file.stat().st_mode & 0o077 == 0


def test_a_log_goes_on_where_it_ended_and_a_torn_line_is_taken_off(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text('{"n":1}\n{"n":2,"to', encoding="utf-8")
    trail = AuditTrail(file)
    trail.add(record(3), change=True)
    trail.close()
    assert [line["n"] for line in lines(file)] == [1, 3]


def test_a_file_that_is_moved_is_made_anew(tmp_path: Path) -> None:
    file, old = tmp_path / "log", tmp_path / "log.1"
    trail = AuditTrail(file, chain=Chain(b""))
    trail.add(record(1), change=True)
    until(lambda: len(lines(file)) == 2)
    file.rename(old)
    trail.add(record(2), change=True)
    trail.close()
    assert [line.get("n") for line in lines(old)] == [None, 1]
    begin, line = lines(file)
    assert begin["previous"] == lines(old)[-1]["chain"]
    assert line["n"] == 2


def test_two_processes_cannot_write_one_log(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path / "log")
    with pytest.raises(StartupError, match="another process"):
        AuditTrail(tmp_path / "log")
    trail.close()
    AuditTrail(tmp_path / "log").close()


def test_a_log_that_cannot_be_written_keeps_a_stage_from_starting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StartupError, match="AUDIT_DIR"):
        AuditTrail(tmp_path / "file" / "log")


def test_refusals_of_one_kind_share_a_line_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_SECONDS", 0.05)
    file = tmp_path / "log"
    trail = AuditTrail(file)
    for number in range(50):
        trail.add_refusal(("key:a", "Search"), record(number))
        trail.add_refusal(("key:b", "Search"), record(100 + number))
    until(lambda: len(lines(file)) == 4)
    trail.add_refusal(("key:a", "Search"), record(200))
    trail.close()
    assert [(line["n"], line.get("count")) for line in lines(file)] == [
        (0, None),
        (100, None),
        (49, 49),
        (149, 49),
        (200, None),
    ]


class Full:
    """A disk that takes nothing until it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = True
        write = module.os.write

        def refuse(descriptor: int, data: Any) -> int:
            if self.on:
                # A part of the line gets there, as on a real disk.
                write(descriptor, bytes(data)[:5])
                raise OSError(28, "No space left on device")
            return write(descriptor, data)

        monkeypatch.setattr(module.os, "write", refuse)
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


def test_what_finds_no_room_is_counted_and_told_and_changes_have_room_that_others_have_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "log"
    trail = AuditTrail(file, chain=Chain(b"key"))
    monkeypatch.setattr(module, "QUEUE_LINES", 10)
    disk = Full(monkeypatch)
    for number in range(8):
        trail.add(record(number), change=False)
    for number in range(100, 108):
        trail.add(record(number), change=True)
    disk.on = False
    trail.close()
    found = lines(file)
    assert [line["n"] for line in found if "n" in line] == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
    assert [line["lines"] for line in found if line.get("event") == "dropped"] == [6]
    assert [line["number"] for line in found] == list(range(1, 13))


async def test_a_required_log_that_cannot_be_written_refuses_changes_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITTEN_SECONDS", 0.1)
    trail = AuditTrail(tmp_path / "log", required=True)
    disk = Full(monkeypatch)
    trail.check()
    with pytest.raises(Unavailable, match="the change was made"):
        await trail.write(record(1))
    with pytest.raises(Unavailable, match="nothing may be changed") as caught:
        trail.check()
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    disk.on = False
    async with asyncio.timeout(5):
        while True:
            try:
                trail.check()
                break
            except Unavailable:
                await asyncio.sleep(0.01)
    await trail.write(record(2))
    assert [line["n"] for line in lines(tmp_path / "log")] == [1, 2]
    trail.close()
