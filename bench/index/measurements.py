"""Measurements of indexing: one function a row."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.index.platform import index, platform
from bench.speed.raw import RawProcess
from bench.speed.results import Row, compared
from bench.speed.session import Session, workload

PASSAGES = 20_000
LINES = 200_000
FEWER_LINES = 20_000
_TUNED_ON = 256
_WORDS_A_LINE = 40


@dataclass(frozen=True, slots=True)
class IndexMeasurement:
    """One row."""

    name: str
    run: Callable[[Session, int], Row]
    size: int
    """Number of passages or lines; smaller to see that it works."""


def rate(session: Session, count: int) -> Row:
    """Passages a second through the command, against the embedder's own backend in-process, at its best."""
    with ExitStack() as stack:
        gateway = stack.enter_context(platform())
        raw = stack.enter_context(RawProcess("embedder"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        best, rates = raw.best_cut([text.text for text in workload("index/tuning", 0).mixed(_TUNED_ON)])
        passages = [[text.text for text in workload("index/rate", each).mixed(count)] for each in range(session.rounds)]

        def ours(number: int) -> float:
            source = folder / f"round-{number}.jsonl"
            with source.open("w", encoding="utf-8") as stream:
                for place, text in enumerate(passages[number]):
                    stream.write(json.dumps({"id": str(place), "text": text}) + "\n")
            done = index(gateway, source, f"round-{number}")
            assert done.documents == count
            return count / done.seconds

        rounds = session.interleaved("rate", [ours, lambda number: raw.rate(passages[number], best)])
    return compared(
        f"index/rate_vs_raw@{count}", rounds, "passages/s", passages=count, raw_cut=str(best), raw_rates=rates
    )


def memory(session: Session, count: int) -> Row:
    """The command's memory with very many lines, against its memory with fewer; pseudo-embeddings."""
    fewer = FEWER_LINES * count // LINES
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        sources = [_synthetic(folder / f"{lines}.jsonl", lines) for lines in (count, fewer)]

        def side(place: int) -> Callable[[int], float]:
            def measure(number: int) -> float:
                # A stack of its own for each: the embedded engine keeps everything in memory.
                with platform({"EMBEDDING_MODEL": ""}) as gateway:
                    return index(gateway, sources[place], f"round-{number}").peak_mib

            return measure

        rounds = session.interleaved("memory", [side(0), side(1)])
    return compared(f"index/memory_mb@{count}", rounds, "MiB", lines=[count, fewer])


def _synthetic(path: Path, lines: int) -> Path:
    """A corpus of a number of lines, the same every time."""
    chance = random.Random(lines)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(lines):
            text = " ".join(chance.choices(words, k=_WORDS_A_LINE))
            stream.write(json.dumps({"id": str(number), "title": f"line {number}", "text": text}) + "\n")
    return path


MEASUREMENTS: Sequence[IndexMeasurement] = (
    IndexMeasurement(f"index/rate_vs_raw@{PASSAGES}", rate, PASSAGES),
    IndexMeasurement(f"index/memory_mb@{LINES}", memory, LINES),
)
