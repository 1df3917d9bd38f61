"""Command line of `sluice index`."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sluice_cli.options import AsJson, Collection

app = typer.Typer(rich_markup_mode=None)


@app.command()
def index(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="FOLDER, FILE.jsonl, FILE.csv, FILE.tsv, or - for standard input.")
    ],
    collection: Collection = "",
    kind: Annotated[
        Literal["jsonl", "csv", "tsv"] | None,
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
) -> None:
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
    from sluice_cli import calls
    from sluice_cli.indexing import index as command
    from sluice_cli.indexing.tables import Columns
    from sluice_client import Chunking

    if whole and (chunk_tokens is not None or overlap_tokens is not None):
        raise typer.BadParameter("it cuts nothing; leave --chunk-tokens and --overlap-tokens out", param_hint="--whole")
    options = command.Options(
        source=source,
        kind=kind,
        columns=Columns(id=id_column, title=title_column, text=text_column),
        collection=collection,
        chunking=None if whole else Chunking(chunk_tokens or 0, overlap_tokens),
        rejects=rejects,
        checkpoint=checkpoint,
        batch_size=batch_size,
        concurrency=concurrency,
        as_json=as_json,
    )
    calls.run(context, command.index, options)
