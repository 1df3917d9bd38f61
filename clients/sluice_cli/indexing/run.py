"""A run of `sluice index`: reads a source ahead, stores it, saves the progress, sums up."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import replace

from sluice_cli.calls import Problem, plain, print_json, say_warning, stderr, stdout
from sluice_cli.indexing.checkpoint import Checkpoint, Counts, Ledger, Settled, index_of
from sluice_cli.indexing.records import BEGINNING, Record, Reject, Source, SourceDocument
from sluice_cli.indexing.rejects import Rejects
from sluice_cli.progress import counted
from sluice_client import Config, Indexed, SluiceError

READ_AHEAD = 64
READ_AHEAD_CHARACTERS = 500_000
SAVE_SECONDS = 1.0
_NOTES_SHOWN, _KINDS_SHOWN = 20, 12


class Run:
    """A run of the command, from a mark in the source."""

    def __init__(
        self,
        source: Source,
        index_all: Callable[..., Awaitable[int]],
        config: Callable[[], Awaitable[Config]],
        checkpoint: Checkpoint | None,
        settled: Settled,
        rejects: Rejects,
        prefix: str = "",
    ) -> None:
        """`prefix` comes before the ids that the source gives."""
        self._source = source
        self._index_all = index_all
        self._config = config
        self._checkpoint = checkpoint
        self._begun = settled
        self._ledger = Ledger(settled)
        self._saved: Settled | None = None
        self._stored = Counts()
        self._started = time.monotonic()
        self._indexed: Indexed | None = None
        self.rejects = rejects
        self._prefix = prefix
        self.pruned = 0
        """Number of documents deleted because the source has them no more."""

    async def store(self) -> None:
        """Store all that can be stored, and save the progress."""
        with self.rejects:
            await self._save()
            stopping = asyncio.Event()
            saving = asyncio.create_task(self._keep_saving(stopping))
            try:
                await self._store_documents()
            except (SluiceError, Problem, asyncio.CancelledError):
                say_warning(f"stopped with {self._counts.documents:,} documents stored; {self._next_step()}")
                raise
            finally:
                stopping.set()
                await saving
        if self._checkpoint is not None:
            self._checkpoint.clear()

    async def _store_documents(self) -> None:
        async def documents() -> AsyncIterator[SourceDocument]:
            async for record in _in_background(self._source.read(self._begun.mark)):
                if isinstance(record, Reject):
                    self.rejects.add(record)
                    self._ledger.pass_over(record.mark)
                else:
                    self._ledger.take(record.mark)
                    yield replace(record, id=self._prefix + record.id) if self._prefix else record

        with counted("{task.fields[stored]:,} stored, {task.fields[rate]:.0f}/s") as progress:
            bar = progress.add_task(
                plain(self._source.name),
                total=self._source.size,
                completed=self._begun.mark.position,
                stored=self._begun.counts.documents,
                rate=0.0,
            )

            def stored(batch: Sequence[SourceDocument], indexed: Indexed) -> None:
                counts = Counts(
                    indexed.indexed_count, indexed.passage_count, len(indexed.truncated_ids), indexed.replaced_count
                )
                self._ledger.end([document.mark.place for document in batch], counts)
                self._stored += counts
                self._indexed = indexed
                progress.update(
                    bar,
                    completed=max(progress.tasks[0].completed, batch[-1].position),
                    stored=self._counts.documents,
                    rate=self._stored.documents / self._seconds,
                )

            def refused(document: SourceDocument, error: SluiceError) -> None:
                self.rejects.add(Reject(document.line, document.id, _reason(error), document.position))
                self._ledger.end([document.mark.place], Counts())

            await self._index_all(documents(), on_progress=stored, on_rejected=refused)
            if self._source.size is not None:
                progress.update(bar, completed=self._source.size)

    async def _keep_saving(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SAVE_SECONDS)
            await self._save()
            if not stderr.is_terminal and not stopping.is_set():  # a terminal has a bar
                rate = self._stored.documents / self._seconds
                stderr.print(f"{self._counts.documents:,} documents stored, {rate:.0f}/s", soft_wrap=True)

    async def _save(self) -> None:
        """Save the settled part, after the rejects that belong to it."""
        settled, checkpoint = self._ledger.settled, self._checkpoint
        if checkpoint is None or settled == self._saved or (settled.mark == BEGINNING and not checkpoint.needed):
            return
        if checkpoint.run["index"] is None and settled.counts.documents:
            with contextlib.suppress(SluiceError):  # the next save tries again
                checkpoint.run["index"] = index_of(await self._config())
        self.rejects.sync()
        try:
            await asyncio.to_thread(checkpoint.save, settled)
        except OSError as error:
            message = f"the checkpoint {checkpoint.path} cannot be written: {error.strerror}"
            if checkpoint.needed and self._saved is None:
                raise Problem(message, "name another file with --checkpoint, or leave it out") from None
            say_warning(
                f"{message}; this run cannot be taken up again where it stops, unless --checkpoint names a file"
            )
            self._checkpoint = None
        self._saved = settled

    def _next_step(self) -> str:
        if not self._counts.documents:
            return "the same command again begins anew"
        if self._source.state is None:
            return "standard input cannot be taken up again: from its beginning, the same command replaces them"
        if self._checkpoint is None:
            return "the same command again replaces them"
        return f"the same command again goes on from there ({self._checkpoint.path})"

    @property
    def _counts(self) -> Counts:
        """Count this run and the settled part of those before."""
        return self._begun.counts + self._stored

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def print_summary(self, *, as_json: bool) -> None:
        """Print the outcome."""
        counts, rejects, seconds = self._counts, self.rejects, self._seconds
        index_version, model = (self._indexed.index_version, self._indexed.model) if self._indexed else ("", "")
        if as_json:
            print_json(
                {
                    "stored": counts.documents,
                    "replaced": counts.replaced,
                    "passages": counts.passages,
                    "rejected": rejects.count,
                    "rejects_file": str(rejects.path) if rejects.count else None,
                    "lost_lines": rejects.lost_lines,
                    "passed_over": sum(self._source.passed_over.values()),
                    "pruned": self.pruned,
                    "notes": self._source.said,
                    "truncated": counts.truncated,
                    "stored_before": self._begun.counts.documents,
                    "index_version": index_version,
                    "model": model,
                    "seconds": round(seconds, 3),
                }
            )
            return
        where = f" in {plain(index_version)} by {plain(model)}" if self._indexed else ""
        parts = f" as {counts.passages:,} passages" if counts.passages > counts.documents else ""
        rate = self._stored.documents / seconds
        stdout.print(
            f"{counts.documents:,} documents stored{parts}{where}, {seconds:.1f} s, {rate:.0f}/s", markup=False
        )
        if counts.replaced:
            stdout.print(f"{counts.replaced:,} of them replaced a document of the same id")
        if counts.truncated:
            stdout.print(
                f"{counts.truncated:,} are longer than the model's window: found by words whole, by meaning in part"
            )
        if self.pruned:
            stdout.print(f"{self.pruned:,} documents deleted that are no longer there")
        if kinds := self._source.passed_over:
            shown = ", ".join(f"{plain(kind)} {count:,}" for kind, count in sorted(kinds.items())[:_KINDS_SHOWN])
            stdout.print(f"{sum(kinds.values()):,} files of other kinds passed over: {shown}")
        for note in self._source.said[:_NOTES_SHOWN]:
            say_warning(note)
        if (more := len(self._source.said) - _NOTES_SHOWN) > 0:
            say_warning(f"and {more:,} more of the kind; --json shows them all")
        if rejects.count:
            lost = f", and {rejects.lost_lines:,} lines lost with them" if rejects.lost_lines else ""
            say_warning(f"{rejects.count:,} records rejected{lost}; {rejects.path} says why")


def _reason(error: SluiceError) -> str:
    """Reason for a refusal, without the document's place in its batch."""
    return re.sub(r"^documents\[\d+\]\.?", "", error.message)


async def _in_background(items: Iterator[Record]) -> AsyncIterator[Record]:
    """Read an iterator a little ahead, in a thread of its own.

    It is a daemon: waiting for a pipe or a terminal must not keep the command from ending.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[list[Record] | Exception] = asyncio.Queue(2)

    def hand_over(some: list[Record] | Exception) -> None:
        handing = ready.put(some)
        try:
            asyncio.run_coroutine_threadsafe(handing, loop).result()
        except RuntimeError:  # the loop is gone, and with it the reader
            handing.close()

    def read() -> None:
        some: list[Record] | Exception = []
        with contextlib.suppress(futures.CancelledError):  # no more is wanted
            while True:
                try:
                    some = _some(items)
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


def _some(items: Iterator[Record]) -> list[Record]:
    """Take the next few records, of bounded number and text."""
    some: list[Record] = []
    characters = 0
    while len(some) < READ_AHEAD and characters < READ_AHEAD_CHARACTERS and (item := next(items, None)) is not None:
        some.append(item)
        characters += 0 if isinstance(item, Reject) else len(item.text)
    return some
