"""The command line: what can be said. What is done lies in the module of each command, imported when it is called."""

# ruff: noqa: PLC0415  # imports inside the commands keep --help quick

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sluice_cli.capacity import app as capacity
from sluice_cli.rollout.app import app as rollout
from sluice_client import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done; 1 done, but something needs a look (a rejected record, a check that failed); "
    "2 the command line is wrong; 3 it could not be done; 130 interrupted.",
)

Collection = Annotated[str, typer.Option(metavar="NAME", help="Collection; the gateway's default if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _tls(authority: Path | None, certificate: Path | None, key: Path | None) -> tuple[Path, Path, Path] | None:
    if authority and certificate and key:
        for file in (authority, certificate, key):
            if not file.is_file():
                raise typer.BadParameter(f"{file} is not a file that can be read")
        return authority, certificate, key
    if authority or certificate or key:
        raise typer.BadParameter("TLS needs all three: --tls-authority, --tls-certificate and --tls-key")
    return None


@app.callback()
def connection(
    context: typer.Context,
    gateway: Annotated[
        str, typer.Option(metavar="ADDRESS", envvar="SLUICE_GATEWAY", help="Gateway to talk to, as host:port.")
    ] = "127.0.0.1:50051",
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="Deadline of each call; 10, or 120 for storing, if not given."),
    ] = None,
    tls_authority: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SLUICE_TLS_AUTHORITY", help="Whom to believe, where TLS is on."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SLUICE_TLS_CERTIFICATE", help="What to show to the gateway."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SLUICE_TLS_KEY", help="The certificate's key.")
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the release and exit.")
    ] = False,
) -> None:
    """Ask questions of documents, and look after them.

    \b
    Examples:
      sluice doctor                              is everything as it should be?
      sluice index docs/                         store a folder of text, Markdown and HTML
      sluice search "how do I roll back?"        ask
      sluice --gateway search.internal:50051 config
    """
    context.obj = (gateway, timeout, _tls(tls_authority, tls_certificate, tls_key))


@app.command()
def search(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.")],
    rerank: Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="Reorder by a cross-encoder.")] = None,
    expand: Annotated[bool | None, typer.Option("--expand/--no-expand", help="Search for variants, too.")] = None,
    strategy: Annotated[
        Literal["synonyms", "multi_query"] | None, typer.Option(help="How variants are made, where they are.")
    ] = None,
    dense: Annotated[bool | None, typer.Option("--dense/--no-dense", help="Search by vectors.")] = None,
    lexical: Annotated[bool | None, typer.Option("--lexical/--no-lexical", help="Search by words.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Most results, 1 to 100.")] = 10,
    collection: Collection = "",
    conditions: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="CONDITION", help="Keep what matches; may be given again, all must hold."),
    ] = None,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Let the best of several near-duplicates stand for them.")
    ] = False,
    by_document: Annotated[
        bool, typer.Option("--by-document", help="Show no more than the best chunk of a document.")
    ] = False,
    page_token: Annotated[str, typer.Option(metavar="TOKEN", help="Go on where the page before ended.")] = "",
    explain: Annotated[bool, typer.Option("--explain", help="Show what every stage thought and did.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a question. What is not switched on or off is left to the gateway.

    \b
    Examples:
      sluice search "parse command line options"
      sluice search "parse command line options" --rerank --explain
      sluice search "roll back" --expand --strategy multi_query --limit 5
      sluice search "thread pool" --filter kind=class --filter 'year>=2020'
      sluice search "thread pool" --json | jq -r '.results[].id'

    \b
    Conditions:
      kind=class        equal          year>=2020, <=, >, <   within bounds
      lang=en,de        one of these   year=*                 has the field
      kind!=module      not equal      year!=*                has it not
    Values look like what they are: true and false, 2020, 0.5, text. Quotes make text of anything: 'zip="02139"'.
    """
    from sluice_cli import calls
    from sluice_cli import search as command

    options = command.Options(
        question=question,
        limit=limit,
        collection=collection,
        conditions=conditions or [],
        by_document=by_document,
        page_token=page_token,
        explain=explain,
        as_json=as_json,
        dense=dense,
        lexical=lexical,
        expand=expand,
        strategy=strategy,
        rerank=rerank,
        collapse=collapse,
    )
    calls.run(context, command.search, options)


@app.command()
def compare(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look for.")],
    rerank: Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="Enhanced: reorder.")] = None,
    expand: Annotated[bool | None, typer.Option("--expand/--no-expand", help="Enhanced: search for variants.")] = None,
    strategy: Annotated[
        Literal["synonyms", "multi_query"] | None, typer.Option(help="Enhanced: how variants are made.")
    ] = None,
    feature: Annotated[
        str, typer.Option(metavar="NAME", help="Enhanced: what users of this feature of the rollout get.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", help="Results of each answer, 1 to 100.")] = 10,
    collection: Collection = "",
    conditions: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="CONDITION", help="Keep what matches, as for sluice search."),
    ] = None,
    by_document: Annotated[bool, typer.Option("--by-document", help="No more than the best chunk of each.")] = False,
    persistence: Annotated[
        float | None, typer.Option(metavar="P", help="Of the rank-biased overlap, above 0 and below 1; else 0.9.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show side by side what a question gets now, and what it gets with more switched on.

    Without a switch and without --feature, the enhanced answer has expansion and reranking on. It counts for no
    rollout and changes nothing. The standard answer is made first; vectors that both need may then come from a cache.

    \b
    Examples:
      sluice compare "parse command line options"
      sluice compare "parse command line options" --rerank --limit 5
      sluice compare "roll back" --feature rerank-v1
      sluice compare "roll back" --json | jq .rank_biased_overlap
    """
    from sluice_cli import calls
    from sluice_cli import compare as command

    options = command.Options(
        question=question,
        rerank=rerank,
        expand=expand,
        strategy=strategy,
        feature=feature,
        limit=limit,
        collection=collection,
        conditions=conditions or [],
        by_document=by_document,
        persistence=persistence,
        as_json=as_json,
    )
    calls.run(context, command.compare, options)


@app.command()
def index(  # noqa: PLR0913, PLR0917  # one an option, and typer calls it
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="FOLDER, FILE.jsonl, FILE.csv, FILE.tsv, or - for standard input.")
    ],
    collection: Collection = "",
    kind: Annotated[
        Literal["jsonl", "csv", "tsv"] | None,
        typer.Option("--format", help="What SOURCE holds, if its name does not tell; of standard input jsonl."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="A table's column of ids, if not id.")] = None,
    title_column: Annotated[str | None, typer.Option(metavar="NAME", help="That of titles, if not title.")] = None,
    text_column: Annotated[str | None, typer.Option(metavar="NAME", help="That of texts, if not text.")] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=32, help="Longest chunk in tokens of the model; its window if not given."),
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Tokens that chunks share; an eighth if not given.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Cut nothing: the model reads the beginning alone.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where rejects go, if not to SOURCE.rejects.jsonl.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where it says how far it is, if not in SOURCE.checkpoint.json."),
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

    What cannot be stored goes to the rejects file with its line and the reason, and the exit code is 1. Stopped or
    killed, the same command again goes on where it was; only standard input is read from its beginning.

    \b
    Examples:
      sluice index docs/
      sluice index corpus.jsonl --collection papers
      sluice index films.csv --id-column imdb --text-column plot
      sluice index handbook/ --chunk-tokens 128 --overlap-tokens 16
      zcat corpus.jsonl.gz | sluice index - --rejects rejects.jsonl
    """
    from sluice_cli import calls
    from sluice_cli import index as command
    from sluice_cli.tables import Columns
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


@app.command()
def delete(
    context: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents to delete.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Delete documents by id. An id that does not exist is no error.

    \b
    Examples:
      sluice delete guide/rollback.md
      sluice delete 4983 5836 --collection papers
    """
    from sluice_cli import calls
    from sluice_cli import delete as command

    calls.run(context, command.delete, ids, collection, as_json=as_json)


@app.command()
def reindex(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, by its short or whole name; an embedder serves it.")
    ],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Build a version by another model beside the live one, verify it, and switch to it in one step.

    Questions are answered, and documents stored and deleted, all the while. The version before stays for `sluice
    rollback`. Killed at any point, the same command goes on; the live version is untouched until the switch.

    The gateway has to know an embedder that serves the model: EMBEDDER_ADDITIONAL_ADDRESSES.

    \b
    Examples:
      sluice reindex --model all-mpnet-base-v2
      sluice reindex --model all-mpnet-base-v2 --collection papers --json
    """
    from sluice_cli import calls
    from sluice_cli import reindex as command

    calls.run(context, command.reindex, command.Options(model=model, collection=collection, as_json=as_json))


@app.command()
def rollback(
    context: typer.Context,
    collection: Collection = "",
    to: Annotated[str, typer.Option(metavar="VERSION", help="A ready version; the one before if not given.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the version live again that was live before. Takes less than a second.

    What was stored or deleted since the switch is in the version left, not in the one gone back to.

    \b
    Examples:
      sluice rollback
      sluice rollback --collection papers --to papers-v3
    """
    from sluice_cli import calls
    from sluice_cli import rollback as command

    calls.run(context, command.rollback, collection, to, as_json=as_json)


@app.command()
def verify(
    context: typer.Context,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="A version; the live one if not given.")] = "",
    collection: Collection = "",
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, max=500, help="Documents to sample.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a version: counts, vectors computed again, what it finds, and how that compares with the live version.

    The exit code is 1 if a check failed.

    \b
    Examples:
      sluice verify
      sluice verify documents-v2 --sample 200
    """
    from sluice_cli import calls
    from sluice_cli import verify as command

    calls.run(context, command.verify, collection, version, sample, as_json=as_json)


@app.command()
def collections(
    context: typer.Context,
    drop: Annotated[str, typer.Option(metavar="VERSION", help="Delete this version first; not a live one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show all versions of all collections: which is live, by which model, from what, how large.

    \b
    Examples:
      sluice collections
      sluice collections --json | jq -r '.[] | select(.live) | .version'
      sluice collections --drop documents-v1
    """
    from sluice_cli import calls
    from sluice_cli import collections as command

    calls.run(context, command.collections, drop, as_json=as_json)


snapshot = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep copies of versions, and restore them.")
app.add_typer(snapshot, name="snapshot")
app.add_typer(rollout, name="rollout")


@snapshot.command("create")
def snapshot_create(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Keep a consistent copy of the live version.

    \b
    Examples:
      sluice snapshot create
      sluice snapshot create --collection papers-v2      a version that is not live
    """
    from sluice_cli import calls
    from sluice_cli import snapshot as command

    calls.run(context, command.create, collection, as_json=as_json)


@snapshot.command("list")
def snapshot_list(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """List the copies of all versions of a collection, newest first.

    \b
    Examples:
      sluice snapshot list
      sluice snapshot list --json | jq -r '.[0].name'
    """
    from sluice_cli import calls
    from sluice_cli import snapshot as command

    calls.run(context, command.show, collection, as_json=as_json)


@snapshot.command("restore")
def snapshot_restore(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="One that `sluice snapshot list` names.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Make a new version of a copy, and make it live. The version before stays for `sluice rollback`.

    \b
    Examples:
      sluice snapshot restore documents-v1-2026-11-21-09-30-00-000000
    """
    from sluice_cli import calls
    from sluice_cli import snapshot as command

    calls.run(context, command.restore, name, collection, as_json=as_json)


@snapshot.command("prune")
def snapshot_prune(
    context: typer.Context,
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="How many of the newest to keep.")],
    collection: Collection = "",
    as_json: AsJson = False,
) -> None:
    """Delete all copies of a collection but the newest.

    \b
    Examples:
      sluice snapshot prune --keep 3
    """
    from sluice_cli import calls
    from sluice_cli import snapshot as command

    calls.run(context, command.prune, keep, collection, as_json=as_json)


@app.command()
def config(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Show what is on by default, which models and which index serve, and how every stage is.

    \b
    Examples:
      sluice config
      sluice config --collection papers --json
    """
    from sluice_cli import calls
    from sluice_cli import config as command

    calls.run(context, command.config, collection, as_json=as_json)


@app.command()
def doctor(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> None:
    """Check the gateway and what is behind it, and this machine. Every problem comes with a remedy.

    Works whether or not anything is running. The exit code is 1 if a check failed; a warning is none.

    \b
    Examples:
      sluice doctor
      sluice --gateway search.internal:50051 doctor --collection papers
    """
    from sluice_cli import calls
    from sluice_cli import doctor as command

    calls.run(context, command.doctor, collection, as_json=as_json)


app.add_typer(capacity)


if __name__ == "__main__":
    app()
