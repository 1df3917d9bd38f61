"""Options that several commands share, and an option for every feature flag."""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

Collection = Annotated[str, typer.Option(metavar="NAME", help="Collection; the gateway's default if not given.")]
CollectionArgument = Annotated[str, typer.Argument(metavar="[COLLECTION]", help="The gateway's default if not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Limit = Annotated[int, typer.Option(metavar="N", help="Most results, 1 to 100.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="CONDITION", help="Keep matching documents; may be repeated, all must hold."),
]
ConditionTree = Annotated[
    str,
    typer.Option(
        "--filter-json", metavar="JSON", help='Keep what matches {"all": [...], "any": [...], "none": [...]}, nested.'
    ),
]
Diversity = Annotated[
    float | None,
    typer.Option(metavar="D", help="Let results repeat less: 0 (by score alone) to 1; off if not given."),
]
ByDocument = Annotated[bool, typer.Option("--by-document", help="Show no more than the best chunk of a document.")]
Late = Annotated[
    bool | None,
    typer.Option("--late/--no-late", help="With token vectors, for reranking by late interaction, or without."),
]
ExtractorName = Annotated[
    str,
    typer.Option(
        "--extractor", metavar="NAME", help="Find names by spacy:PIPELINE, gliner:MODEL or llm:MODEL as well."
    ),
]
ExtractorUrl = Annotated[
    str,
    typer.Option(metavar="URL", help="OpenAI-compatible server of llm:MODEL; SLUICE_EXTRACTOR_KEY has its key."),
]
ExtractorBudget = Annotated[
    float | None,
    typer.Option(metavar="AMOUNT", min=0, help="Most tokens of llm:MODEL, or what they cost by --extractor-prices."),
]
ExtractorPrices = Annotated[
    str, typer.Option(metavar="READ,WRITTEN", help="Prices of 1,000 tokens that it reads, and writes, as 0.15,0.6.")
]
Sure = Annotated[bool, typer.Option("--yes", help="Do not ask for a confirmation.")]

_GIVEN = "sluice.flags"


def one_of(argument: str, option: str) -> str:
    """Return the collection that is named, as an argument or by the option of earlier releases."""
    if argument and option and argument != option:
        raise typer.BadParameter(f"names {argument!r}, and --collection {option!r}", param_hint="COLLECTION")
    return argument or option


class FlagCommand(TyperCommand):
    """A command with an option for every feature flag; see `flags_of`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """List all parameters; flags are read from the proto only here."""
        return [*_flag_options(), *super().get_params(ctx)]


def flags_of(context: typer.Context) -> dict[str, Any]:
    """List the flags that the command line sets, by name."""
    given: dict[str, Any] = context.meta.get(_GIVEN, {})
    return given


@functools.cache
def _flag_options() -> list[Any]:
    from sluice_client import FLAGS, Flag  # noqa: PLC0415  # keeps --help quick

    def option(flag: Flag) -> inspect.Parameter:
        name = flag.name.replace("_", "-")
        kind: Any = Literal[flag.choices] if flag.choices else flag.kind
        info = typer.Option(
            f"--{name}/--no-{name}" if flag.kind is bool else f"--{name}",
            help=flag.help,
            metavar="N" if flag.kind is int else None,
            min=flag.least if flag.kind is int else None,
            max=flag.most if flag.kind is int else None,
            callback=_keep,
            expose_value=False,
        )
        return inspect.Parameter(
            flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
        )

    def command(**_: Any) -> None: ...

    command.__signature__ = inspect.Signature([option(flag) for flag in FLAGS.values()])  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(command)
    return list(typer.main.get_command(app).params)


def _keep(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> None:
    if value is not None:
        context.meta.setdefault(_GIVEN, {})[parameter.name] = value
