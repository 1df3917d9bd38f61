"""`sluice index`: stores a source, and continues after an interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Problem,
    command,
    confirm,
    connection_of,
    say_warning,
    stderr,
)
from sluice_cli.indexing.checkpoint import Checkpoint, Settled, index_of
from sluice_cli.indexing.extractors import Extracted, open_extractor
from sluice_cli.indexing.files import Files
from sluice_cli.indexing.records import BEGINNING, Source
from sluice_cli.indexing.rejects import Rejects
from sluice_cli.indexing.run import Run
from sluice_cli.indexing.sources import Format, open_source
from sluice_cli.indexing.state import file_for
from sluice_cli.indexing.tables import Columns
from sluice_cli.indexing.types import given_types
from sluice_cli.options import (
    AsJson,
    Collection,
    ExtractorBudget,
    ExtractorName,
    ExtractorPrices,
    ExtractorUrl,
    Sure,
)
from sluice_client import AsyncClient, Chunking, Config, Stage

app = typer.Typer(rich_markup_mode=None)

_IDS_A_CALL = 1000


@app.command()
@command
async def index(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="FOLDER, FILE, or - for standard input.")],
    collection: Collection = "",
    kind: Annotated[
        Format | None,
        typer.Option("--format", help="Format of SOURCE, if its name does not tell; of standard input jsonl."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="A table's column of ids, if not id.")] = None,
    title_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of titles, if not title.")] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="Column of texts, if not text.")] = None,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME=TYPE", help="Type of a field: text, integer, float or bool; repeatable."),
    ] = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Beginning of all ids, as manual/ of a folder.")] = "",
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete documents with this prefix that the folder has no more.")
    ] = False,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=32, help="Longest chunk in tokens of the model; its window if not given."),
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that chunks share; an eighth if not given.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Cut nothing: the model reads the beginning alone.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of rejects, if not one among your states.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of the progress, if not one among your states."),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, max=512, help="Documents a call.")] = 128,
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, max=16, help="Calls at once.")] = 4,
    extractor: ExtractorName = "",
    extractor_url: ExtractorUrl = "",
    extractor_budget: ExtractorBudget = None,
    extractor_prices: ExtractorPrices = "",
    sure: Sure = False,
    as_json: AsJson = False,
) -> int:
    """Store documents, or replace those with the same id.

    A FOLDER's text, Markdown, HTML, PDF and Word files become documents (the last two with the extra `documents`): the
    path within the folder is the id; the title is that of the front matter, the first heading or else the file's name.
    Links that lead out of the folder are not followed. Of a folder with a corpus.jsonl (BEIR) that file is read.

    A FILE.jsonl holds one JSON object a line, or is one array of them, with "id" (or "_id"), "title" and "text"; all
    else is metadata: "metadata" (strings, numbers, booleans, lists of strings), and other keys. A FILE.csv or FILE.tsv
    names its columns in its first row; those that are not id, title or text are metadata. Ends like .gz are unpacked.

    Documents are related by links of HTML and Markdown, by "aliases" of front matter, and in JSON by "relations" (with
    lists "aliases", "mentions" and "links"), beside the names in their texts.

    A field holds numbers only where nothing of them is lost, and else text, which is said; --type decides otherwise.

    Texts longer than the embedding model's window are cut into chunks that overlap; --whole stores them in one piece.

    A record that cannot be stored goes to the rejects file with its line and the reason, and the exit code is 1. After
    a stop or a crash, the same command goes on where it was; only standard input is read from its beginning.

    \b
    Examples:
      sluice index docs/
      sluice index corpus.jsonl --collection papers
      sluice index films.csv --id-column imdb --text-column plot
      sluice index handbook/ --chunk-tokens 128 --overlap-tokens 16
      sluice index films.csv.gz --type rating=float --type barcode=text
      sluice index manual/ --prefix manual/ --prune
      sluice index papers/ --extractor spacy:en_core_web_sm
      produce | sluice index - --rejects rejects.jsonl
    """
    if whole and (chunk_tokens is not None or overlap_tokens is not None):
        raise typer.BadParameter("it cuts nothing; leave --chunk-tokens and --overlap-tokens out", param_hint="--whole")
    chunking = None if whole else Chunking(chunk_tokens or 0, overlap_tokens)
    columns = Columns(id=id_column, title=title_column, text=text_column)
    connection = connection_of(context)
    given = given_types(types or [])
    read = await asyncio.to_thread(open_source, source, kind, columns, given)
    if prune and not isinstance(read, Files):
        raise typer.BadParameter("only a folder can have lost files", param_hint="--prune")
    documents: Source = read
    if extractor:
        opening = partial(
            open_extractor, extractor, url=extractor_url, budget=extractor_budget, prices=extractor_prices
        )
        documents = Extracted(read, await asyncio.to_thread(opening))
    async with connection.client() as client:
        config = await client.config(collection)
        if any(stage.model and stage.model.pseudo for stage in config.stages):
            say_warning("pseudo-embeddings serve here: documents will be found by words, not by meaning")
        identity = {
            "source": str(await asyncio.to_thread(Path(source).absolute)),
            "kind": kind,
            "columns": asdict(columns),
            "types": given,
            "prefix": prefix,
            "gateway": connection.gateway,
            "collection": collection,
            "chunking": None if chunking is None else asdict(chunking),
            "state": read.state,
            "index": index_of(config),
            **({"extractor": extractor} if extractor else {}),
        }
        saved = _checkpoint(read, source, checkpoint, identity)
        settled = _taken_up(saved, read, config)
        target = (connection.gateway, collection)
        refused = Rejects(file_for(source, rejects, "--rejects", "rejects.jsonl", *target), settled.mark)
        store = partial(
            client.index_all, collection=collection, chunking=chunking, batch_size=batch_size, concurrency=concurrency
        )
        run = Run(documents, store, partial(client.config, collection), saved, settled, refused, prefix)
        await run.store()
        if isinstance(read, Files) and prune:
            run.pruned = await _prune(client, read, collection, prefix, sure)
    run.print_summary(as_json=as_json)
    return NEEDS_A_LOOK if run.rejects.count or read.suspect else DONE


async def _prune(client: AsyncClient, files: Files, collection: str, prefix: str, sure: bool) -> int:
    """Delete the documents with this prefix that are no longer among the files; return their number."""
    if not files.whole:
        say_warning("nothing is deleted, as some folders cannot be read")
        return 0
    there = {prefix + identity for identity in await asyncio.to_thread(files.ids)}
    gone = [
        stored.document.id
        async for stored in client.list_documents(collection=collection)
        if stored.document.id.startswith(prefix) and stored.document.id not in there
    ]
    if gone and not prefix:
        confirm(f"{len(gone):,} documents of the collection are not in {files.name} and will be deleted", sure)
    for start in range(0, len(gone), _IDS_A_CALL):
        await client.delete(gone[start : start + _IDS_A_CALL], collection=collection)
    return len(gone)


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
    path = file_for(name, named, "--checkpoint", "checkpoint.json", str(run["gateway"]), str(run["collection"]))
    return Checkpoint(path, run, needed=named is not None)


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
