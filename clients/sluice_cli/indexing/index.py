"""`sluice index`: stores a source, and continues after an interruption."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Problem,
    command,
    connection_of,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
)
from sluice_cli.indexing.checkpoint import Checkpoint, Counts, Ledger, Settled
from sluice_cli.indexing.records import BEGINNING, Record, Reject, Source, SourceDocument
from sluice_cli.indexing.rejects import Rejects
from sluice_cli.indexing.sources import Format, open_source
from sluice_cli.indexing.tables import Columns
from sluice_cli.options import AsJson, Collection
from sluice_client import Chunking, Config, Indexed, SluiceError, Stage

app = typer.Typer(rich_markup_mode=None)

READ_AHEAD = 64
READ_AHEAD_CHARACTERS = 500_000
SAVE_SECONDS = 1.0
LOG_SECONDS = 10.0


@app.command()
@command
async def index(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="FOLDER, FILE.jsonl, FILE.csv, FILE.tsv, or - for standard input.")
    ],
    collection: Collection = "",
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="Format of SOURCE, if its name does not tell; of standard input jsonl."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="A table's column of ids, if not id.")] = None,
    title_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of titles, if not title.")] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of texts, if not text.")] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=32, help="Longest chunk in tokens of the model; its window if not given."),
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that chunks share; an eighth if not given.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Cut nothing: the model reads the beginning alone.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of rejects, if not SOURCE.rejects.jsonl.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the progress, if not SOURCE.checkpoint.json."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, max=512, help="Documents a call.")] = 128,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Calls at once.")] = 4,
    as_json: AsJson = False,
) -> int:
    """Store documents, or replace those with the same id.

    A FOLDER's text, Markdown and HTML files become documents: the path within the folder is the id, the first heading
    or else the file's name is the title. Of a folder with a corpus.jsonl (BEIR) that file is read. A FILE.jsonl holds
    one JSON object a line, with "id" (or "_id"), "title", "text" and "metadata" (strings, numbers, booleans, lists of
    strings); other keys are ignored. A FILE.csv or FILE.tsv names its columns in its first row; those that are not id,
    title or text are metadata.

    Texts longer than the embedding model's window are cut into chunks that overlap; --whole stores them in one piece.

    A record that cannot be stored goes to the rejects file with its line and the reason, and the exit code is 1. After
    a stop or a crash, the same command goes on where it was; only standard input is read from its beginning.

    \b
    Examples:
      sluice index docs/
      sluice index corpus.jsonl --collection papers
      sluice index films.csv --id-column imdb --text-column plot
      sluice index handbook/ --chunk-tokens 128 --overlap-tokens 16
      zcat corpus.jsonl.gz | sluice index - --rejects rejects.jsonl
    """
    if whole and (chunk_tokens is not None or overlap_tokens is not None):
        raise typer.BadParameter("it cuts nothing; leave --chunk-tokens and --overlap-tokens out", param_hint="--whole")
    chunking = None if whole else Chunking(chunk_tokens or 0, overlap_tokens)
    columns = Columns(id=id_column, title=title_column, text=text_column)
    connection = connection_of(context)
    read = await asyncio.to_thread(open_source, source, kind, columns)
    async with connection.client() as client:
        config = await client.config(collection)
        if any(stage.model and stage.model.pseudo for stage in config.stages):
            say_warning("pseudo-embeddings serve here: documents will be found by words, not by meaning")
        identity = {
            "source": str(_absolute(source)),
            "kind": kind,
            "columns": asdict(columns),
            "gateway": connection.gateway,
            "collection": collection,
            "chunking": None if chunking is None else asdict(chunking),
            "state": read.state,
            "index": _index_of(config),
        }
        saved = _checkpoint(read, source, checkpoint, identity)
        settled = _taken_up(saved, read, config)
        refused = Rejects(_file_for(source, rejects, "--rejects", "rejects.jsonl"), settled.mark)
        store = partial(
            client.index_all, collection=collection, chunking=chunking, batch_size=batch_size, concurrency=concurrency
        )
        run = _Run(read, store, partial(client.config, collection), saved, settled, refused)
        await run.store()
    run.print_summary(as_json=as_json)
    return NEEDS_A_LOOK if run.rejects.count else DONE


def _checkpoint(source: Source, name: str, named: Path | None, run: Mapping[str, Any]) -> Checkpoint | None:
    """Make the checkpoint of a run; None for standard input."""
    if source.state is None:
        if named is not None:
            raise Problem(
                "standard input cannot be read again, so there is no going on from a checkpoint",
                "leave --checkpoint out, or name a file instead of -",
                exit_code=WRONG_COMMAND_LINE,
            )
        return None
    return Checkpoint(_file_for(name, named, "--checkpoint", "checkpoint.json"), run, needed=named is not None)


def _index_of(config: Config) -> str | None:
    """Identify a collection among those of its name; None without a collection."""
    found = config.collection
    return f"{found.version} of {found.create_time} by {found.model.fingerprint}" if found else None


def _taken_up(checkpoint: Checkpoint | None, source: Source, config: Config) -> Settled:
    """Load the part of this run that an earlier one settled."""
    if checkpoint is None:
        return Settled()
    down = next((stage for stage in config.stages if stage.stage is Stage.RETRIEVE and not stage.serving), None)
    if down is not None and checkpoint.path.exists():
        raise Problem(
            f"{checkpoint.path} cannot be checked, as the retriever does not serve: {down.problem}",
            "`sluice doctor` says what to do; then give the same command again",
        )
    settled, why_not = checkpoint.load()
    if why_not:
        say_warning(f"{why_not}: starting from the beginning")
    elif settled.mark != BEGINNING:
        said = "going on" if source.size is None else f"going on at {settled.mark.position / (source.size or 1):.0%}"
        stderr.print(f"{said}, after {settled.counts.documents:,} documents that were stored before", soft_wrap=True)
    return settled


class _Run:
    """A run of the command, from a mark in the source."""

    def __init__(
        self,
        source: Source,
        index_all: Callable[..., Awaitable[int]],
        config: Callable[[], Awaitable[Config]],
        checkpoint: Checkpoint | None,
        settled: Settled,
        rejects: Rejects,
    ) -> None:
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
                    yield record

        with _progress() as progress:
            bar = progress.add_task(
                plain(self._source.name),
                total=self._source.size,
                completed=self._begun.mark.position,
                stored=self._begun.counts.documents,
                rate=0.0,
            )

            def stored(batch: Sequence[SourceDocument], indexed: Indexed) -> None:
                counts = Counts(indexed.indexed_count, indexed.passage_count, len(indexed.truncated_ids))
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
        shown = time.monotonic()
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), SAVE_SECONDS)
            await self._save()
            # A terminal has a bar; a log gets a line now and then.
            if not stderr.is_terminal and time.monotonic() - shown >= LOG_SECONDS:
                shown = time.monotonic()
                rate = self._stored.documents / self._seconds
                stderr.print(f"{self._counts.documents:,} documents stored, {rate:.0f}/s", soft_wrap=True)

    async def _save(self) -> None:
        """Save the settled part, after the rejects that belong to it."""
        settled, checkpoint = self._ledger.settled, self._checkpoint
        if checkpoint is None or settled == self._saved:
            return
        if checkpoint.run["index"] is None and settled.counts.documents:
            with contextlib.suppress(SluiceError):  # the next save tries again
                checkpoint.run["index"] = _index_of(await self._config())
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
                    "passages": counts.passages,
                    "rejected": rejects.count,
                    "rejects_file": str(rejects.path) if rejects.count else None,
                    "passed_over": self._source.passed_over,
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
        if counts.truncated:
            stdout.print(
                f"{counts.truncated:,} are longer than the model's window: found by words whole, by meaning in part"
            )
        if self._source.passed_over:
            stdout.print(f"{self._source.passed_over:,} files of other kinds passed over")
        if rejects.count:
            say_warning(f"{rejects.count:,} records rejected; {rejects.path} says why")


def _reason(error: SluiceError) -> str:
    """Reason for a refusal, without the document's place in its batch."""
    return re.sub(r"^documents\[\d+\]\.?", "", error.message)


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _file_for(source: str, named: Path | None, option: str, ending: str) -> Path:
    """Choose a file: named by an option, or next to the source."""
    if named is None:
        path = _absolute("stdin" if source == "-" else source)
        return path.with_name(f"{path.name}.{ending}")
    if source != "-" and named.resolve() == Path(source).resolve():
        raise Problem(f"{option} names the source itself", "name another file", exit_code=WRONG_COMMAND_LINE)
    return named.absolute()


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
