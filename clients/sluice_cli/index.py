"""`sluice index`: from a source into a collection, telling how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, TypeVar

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
)
from sluice_cli.sources import Reject, Source, SourceDocument, open_source
from sluice_client import Indexed, SluiceClient, SluiceError

ItemT = TypeVar("ItemT")
READ_AHEAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    source: str
    collection: str
    rejects: Path | None
    batch_size: int
    concurrency: int
    as_json: bool


@dataclass(slots=True)
class _Tally:
    """What has been done so far."""

    stored: int = 0
    truncated: int = 0
    index_version: str = ""
    model: str = ""
    started: float = field(default_factory=time.monotonic)

    def add(self, indexed: Indexed) -> None:
        self.stored += indexed.count
        self.truncated += len(indexed.truncated_ids)
        self.index_version, self.model = indexed.index_version, indexed.model

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


async def index(connection: Connection, options: Options) -> int:
    """Stores all that can be stored; the exit code."""
    source = await asyncio.to_thread(open_source, options.source)
    tally = _Tally()
    async with connection.client() as client:
        await _warn_of_pseudo_embeddings(client, options.collection)
        with Rejects(_rejects_path(options)) as rejects:
            try:
                await _store(client, source, rejects, tally, options)
            except (SluiceError, Problem, asyncio.CancelledError):
                say_warning(f"stopped with {tally.stored:,} documents stored; the same command again replaces them")
                raise
    _tell(source, rejects, tally, options)
    return NEEDS_A_LOOK if rejects.count else DONE


async def _store(client: SluiceClient, source: Source, rejects: Rejects, tally: _Tally, options: Options) -> None:
    async def documents() -> AsyncIterator[SourceDocument]:
        async for record in _in_background(source.read()):
            if isinstance(record, Reject):
                rejects.add(record)
            else:
                yield record

    with _progress() as progress:
        bar = progress.add_task(plain(source.name), total=source.size, stored=0, rate=0.0)

        def stored(batch: Sequence[SourceDocument], indexed: Indexed) -> None:
            tally.add(indexed)
            progress.update(
                bar,
                completed=max(progress.tasks[0].completed, batch[-1].position),
                stored=tally.stored,
                rate=tally.stored / tally.seconds,
            )

        await client.index_all(
            documents(),
            collection=options.collection,
            batch_size=options.batch_size,
            concurrency=options.concurrency,
            on_progress=stored,
            on_rejected=lambda document, error: rejects.add(Reject(document.line, document.id, _reason(error))),
        )
        if source.size is not None:
            progress.update(bar, completed=source.size)


def _reason(error: SluiceError) -> str:
    """Why a document was refused; its place in a batch means nothing to people."""
    return re.sub(r"^documents\[\d+\]\.?", "", error.message)


class Rejects:
    """The file of what could not be stored, and why: one JSON object a line. There is none where all was stored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._stream: TextIO | None = None

    def __enter__(self) -> Self:
        try:
            self.path.unlink(missing_ok=True)  # what an earlier run rejected says nothing about this one
        except OSError as error:
            raise self._unwritable(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, reject: Reject) -> None:
        """Writes one down."""
        entry = {"line": reject.line, "id": reject.id, "reason": reject.reason}
        try:
            if self._stream is None:
                self._stream = self.path.open("w", encoding="utf-8")
            self._stream.write(json.dumps({name: value for name, value in entry.items() if value is not None}) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None
        self.count += 1

    def _unwritable(self, error: OSError) -> Problem:
        return Problem(f"{self.path} cannot be written: {error.strerror}", "name another file with --rejects")


def _rejects_path(options: Options) -> Path:
    if options.rejects is None:
        source = Path("stdin" if options.source == "-" else options.source).absolute()
        return source.with_name(f"{source.name}.rejects.jsonl")
    if options.source != "-" and options.rejects.resolve() == Path(options.source).resolve():
        raise Problem("--rejects names the source itself", "name another file", exit_code=WRONG_COMMAND_LINE)
    return options.rejects


async def _in_background(items: Iterator[ItemT]) -> AsyncIterator[ItemT]:
    """Reads an iterator a little ahead, in a thread of its own.

    It is a daemon: waiting for a pipe or a terminal must not keep the command from ending.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[list[ItemT] | Exception] = asyncio.Queue(2)

    def hand_over(some: list[ItemT] | Exception) -> None:
        handing = ready.put(some)
        try:
            asyncio.run_coroutine_threadsafe(handing, loop).result()
        except RuntimeError:  # the loop is gone, and with it whoever wanted this
            handing.close()

    def read() -> None:
        some: list[ItemT] | Exception = []
        with contextlib.suppress(futures.CancelledError):  # nobody wants more
            while True:
                try:
                    some = list(islice(items, READ_AHEAD))
                except Exception as error:  # raised where the items are wanted
                    some = error
                hand_over(some)
                if not some or isinstance(some, Exception):
                    return

    threading.Thread(target=read, daemon=True).start()
    while some := await ready.get():
        if isinstance(some, Exception):
            raise some
        for item in some:
            yield item


async def _warn_of_pseudo_embeddings(client: SluiceClient, collection: str) -> None:
    config = await client.config(collection)
    if any(stage.pseudo for stage in config.stages):
        say_warning("pseudo-embeddings serve here: what is stored will be found by words, not by meaning")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[stored]:,} stored, {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
        console=stderr,
        disable=not stderr.is_terminal,
    )


def _tell(source: Source, rejects: Rejects, tally: _Tally, options: Options) -> None:
    if options.as_json:
        print_json(
            {
                "stored": tally.stored,
                "rejected": rejects.count,
                "rejects_file": str(rejects.path) if rejects.count else None,
                "passed_over": source.passed_over,
                "truncated": tally.truncated,
                "index_version": tally.index_version,
                "model": tally.model,
                "seconds": round(tally.seconds, 3),
            }
        )
        return
    where = f" in {plain(tally.index_version)} by {plain(tally.model)}" if tally.stored else ""
    rate = tally.stored / tally.seconds
    stdout.print(f"{tally.stored:,} documents stored{where}, {tally.seconds:.1f} s, {rate:.0f}/s", markup=False)
    if tally.truncated:
        stdout.print(f"{tally.truncated:,} are longer than the model reads: found by words whole, by meaning in part")
    if source.passed_over:
        stdout.print(f"{source.passed_over:,} files of other kinds passed over")
    if rejects.count:
        say_warning(f"{rejects.count:,} records rejected; {rejects.path} says why")
