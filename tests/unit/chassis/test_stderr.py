from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from services.chassis import stderr
from services.chassis.stderr import LineWriter, dropped_lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe."""
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def read_until(descriptor: int, ending: bytes) -> bytes:
    """Read until some bytes came."""
    found = b""
    while not found.endswith(ending):
        found += os.read(descriptor, 65536)
    return found


def dropped() -> float:
    """Lines that the process has dropped."""
    return next(sample.value for metric in dropped_lines.collect() for sample in metric.samples)


def test_lines_arrive_whole_and_in_order(pipe: tuple[int, int]) -> None:
    lines = [f"line {number} {'é' * number}\n" for number in range(1000)]
    read, write = pipe
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_until(read, b"the end\n")))
    reader.start()
    writer = LineWriter(write)
    for line in lines:
        writer.write(line)
    writer.write("the end\n")
    reader.join(30)
    assert found[0].decode() == "".join(lines) + "the end\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_an_unread_pipe_holds_up_neither_who_writes_nor_the_end_and_lost_lines_are_counted(
    pipe: tuple[int, int], blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stderr, "MOST_BYTES", 100_000)
    read, write = pipe
    os.set_blocking(write, blocking)
    before = dropped()
    writer = LineWriter(write)
    for number in range(10_000):
        writer.write(f"{number:099}\n")
        writer.flush()
    writer.flush(0.01)  # what the end of the process does
    lost = dropped() - before
    assert 0 < lost < 10_000
    # Once it is read, what waited comes, and new lines do.
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_until(read, b"again\n")))
    reader.start()
    writer.flush(30)
    writer.write("again\n")
    reader.join(30)
    assert found[0].count(b"\n") == 10_000 - lost + 1


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    writer = LineWriter(write)
    for _ in range(100):
        writer.write("nobody reads this\n")
    writer.flush(30)
    os.close(write)
