"""Session of a run: servers that stay up, processes that send load, rounds and their lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import Progress

from bench.speed.load import Call, Endpoint, LoadProcess
from bench.speed.raw import RawProcess
from bench.speed.results import Row
from bench.speed.stages import Server, serving
from bench.speed.workload import Question, Workload
from sluice.embedder.v1 import embedder_pb2
from sluice.reranker.v1 import reranker_pb2
from sluice.type.v1 import model_pb2

EMBED = "/sluice.embedder.v1.EmbedderService/EmbedTexts"
RERANK = "/sluice.reranker.v1.RerankerService/RerankPassages"

T = TypeVar("T")
Payload = Callable[[str], bytes]
"""A text to the request for its vector."""


class Session:
    """A run of measurements. What it starts stays up until its end; a context manager.

    `scale` shortens or lengthens every window of time. `busy_before` is the share of the processors that others used
    just before the start: with more than a few percent, the figures are theirs as much as ours.
    """

    def __init__(self, *, rounds: int, scale: float, command: str, progress: Progress) -> None:
        self.rounds = rounds
        self.scale = scale
        self.command = command
        self._progress = progress
        self._exits = ExitStack()
        self._servers: dict[tuple[str, tuple[tuple[str, str], ...]], Server] = {}
        self._raws: dict[tuple[str, tuple[tuple[str, str], ...]], RawProcess] = {}
        self._loads: list[LoadProcess] = []
        self.busy_before = _busy_share()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    def stage(self, name: str, environment: Mapping[str, str] | None = None) -> Server:
        """A stage with these settings, started at the first call."""
        key = (name, tuple(sorted((environment or {}).items())))
        if key not in self._servers:
            self._servers[key] = self._exits.enter_context(serving(name, environment))
        return self._servers[key]

    def raw(self, name: str, environment: Mapping[str, str] | None = None) -> RawProcess:
        """The model of a stage in-process, loaded at the first call."""
        key = (name, tuple(sorted((environment or {}).items())))
        if key not in self._raws:
            self._raws[key] = self._exits.enter_context(RawProcess(name, environment))
        return self._raws[key]

    def load(self, number: int = 0) -> LoadProcess:
        """The first or a further process of clients."""
        while len(self._loads) <= number:
            self._loads.append(self._exits.enter_context(LoadProcess()))
        return self._loads[number]

    def described(self, row: Row) -> Row:
        """The row, with how it was measured."""
        command = f"{self.command} --only '{row.name.split(' ')[0]}' --rounds {self.rounds}"
        kept = {"command": command, "scale": self.scale, "busy_before": self.busy_before}
        return replace(row, details={**row.details, **kept})

    def interleaved(self, title: str, sides: Sequence[Callable[[int], T]]) -> list[tuple[T, ...]]:
        """Run every side in every round, each second round backwards, so that drift meets all sides alike.

        Answers one tuple a round, in the order of `sides`. A side gets the number of the round.
        """
        bar = self._progress.add_task(title, total=self.rounds * len(sides))
        rounds = []
        for number in range(self.rounds):
            order = range(len(sides)) if number % 2 == 0 else range(len(sides) - 1, -1, -1)
            answers: dict[int, T] = {}
            for side in order:
                answers[side] = sides[side](number)
                self._progress.advance(bar)
            rounds.append(tuple(answers[side] for side in range(len(sides))))
        return rounds


def _busy_share() -> float:
    """The share of all processors' time that was not idle in one second, time stolen by the host included."""
    before = _processor_ticks()
    time.sleep(1.0)
    spent = [after - earlier for after, earlier in zip(_processor_ticks(), before, strict=True)]
    return round(1 - (spent[3] + spent[4]) / sum(spent), 3)


def _processor_ticks() -> list[int]:
    """User, nice, system, idle, iowait, irq, softirq, steal: the first line of /proc/stat (proc(5))."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]]


def workload(measurement: str, number: int) -> Workload:
    """The texts of a round: the same in every run, other ones in every round."""
    return Workload(sum(map(ord, measurement)) * 1000 + number)


def embed(server: Server) -> Endpoint:
    """EmbedTexts of an embedder."""
    return Endpoint("grpc", server.address, EMBED)


def rerank(server: Server) -> Endpoint:
    """RerankPassages of a reranker."""
    return Endpoint("grpc", server.address, RERANK)


def embed_query(text: str) -> bytes:
    """A call of EmbedTexts with one query."""
    return _embed([text], embedder_pb2.TEXT_KIND_QUERY)


def embed_document(text: str) -> bytes:
    """A call of EmbedTexts with one document."""
    return _embed([text], embedder_pb2.TEXT_KIND_DOCUMENT)


def document_calls(texts: Sequence[str], texts_a_call: int, *, bulk: bool = False) -> list[Call]:
    """Calls of EmbedTexts with several documents each."""
    priority = model_pb2.PRIORITY_BULK if bulk else model_pb2.PRIORITY_INTERACTIVE
    batches = [texts[start : start + texts_a_call] for start in range(0, len(texts), texts_a_call)]
    return [Call(_embed(batch, embedder_pb2.TEXT_KIND_DOCUMENT, priority), len(batch)) for batch in batches]


def rerank_calls(questions: Iterable[Question]) -> list[Call]:
    """Calls that rerank the passages of one question each."""
    return [
        Call(
            reranker_pb2.RerankPassagesRequest(query=asked.query, passages=asked.passages).SerializeToString(),
            len(asked.passages),
        )
        for asked in questions
    ]


def _embed(
    texts: Sequence[str],
    kind: embedder_pb2.TextKind.ValueType,
    priority: model_pb2.Priority.ValueType = model_pb2.PRIORITY_INTERACTIVE,
) -> bytes:
    return embedder_pb2.EmbedTextsRequest(texts=texts, kind=kind, priority=priority).SerializeToString()
