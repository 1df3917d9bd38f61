"""`sluice doctor`: checks the gateway, then this machine, and gives remedies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping

import typer
from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, command, connection_of, plain, print_json, stdout
from sluice_cli.machine import machine_checks, start_checks
from sluice_cli.operations.checks import Check, Status, fail, ok, warn
from sluice_cli.operations.config import runtime_of
from sluice_cli.options import AsJson, Collection
from sluice_cli.remedies import remedy_of
from sluice_client import (
    FLAGS,
    AsyncClient,
    Config,
    FlagValue,
    Outcome,
    SluiceError,
    Stage,
    StageReport,
    features,
    flag_values,
)

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
# Synonyms need WordNet; a few candidates show that the reranker works, and are no burden.
PROBE: Mapping[str, FlagValue] = {"expansion_strategy": "synonyms", "rerank_candidate_count": 4}
# Reasons of a reranking by the cross-encoder where token vectors were to be compared, and remedies.
TOKENS_MISSING: Mapping[str, str] = {
    "NO_TOKEN_VECTORS": "sluice reindex --late, or RERANK_METHOD=cross_encoder",
    "TOKEN_MODEL_NOT_SERVED": "set TOKEN_MODEL of an embedder to that model, or: sluice reindex --late",
}


app = typer.Typer(rich_markup_mode=None)


@app.command()
@command
async def doctor(context: typer.Context, collection: Collection = "", as_json: AsJson = False) -> int:
    """Check the gateway, the stages behind it, and this machine.

    Works without anything running. The exit code is 1 if a check failed; a warning does not count.

    \b
    Examples:
      sluice doctor
      sluice --gateway search.internal:50051 doctor --collection papers
    """
    checks: list[Check] = []
    async for check in _checks(connection_of(context), collection):
        checks.append(check)
        if not as_json:
            stdout.print(check_view(check), soft_wrap=True)
    count = Counter(check.status for check in checks)
    if as_json:
        print_json(checks)
    else:
        stdout.print(f"\n{count[Status.FAIL]} failed, {count[Status.WARN]} to look at, {count[Status.OK]} fine")
    return NEEDS_A_LOOK if count[Status.FAIL] else DONE


def check_view(check: Check) -> Text:
    """Show a check: a line, and a line for the remedy."""
    view = Text.assemble((f"{check.status:<5}", STYLES[check.status]), f"{check.subject:<22}", plain(check.finding))
    if check.remedy:
        view.append(f"\n{'':<5}{'':<22}remedy: {plain(check.remedy)}", style="dim")
    return view


async def _checks(connection: Connection, collection: str) -> AsyncIterator[Check]:
    config = None
    async with connection.client() as client:
        started = time.perf_counter()
        try:
            config = await client.config(collection)
        except SluiceError as error:
            yield fail("gateway", error.message, remedy_of(error))
        else:
            milliseconds = (time.perf_counter() - started) * 1000
            yield ok("gateway", f"{connection.gateway} answers in {milliseconds:.0f} ms, release {config.release}")
            for check in stage_checks(config):
                yield check
            yield collection_check(config, collection)
            async for check in _question_checks(client, config):
                yield check
    for check in await asyncio.to_thread(lambda: list(machine_checks())):
        yield check
    if config is None:  # a gateway that serves knows its models better than this machine
        for check in await asyncio.to_thread(lambda: list(start_checks())):
            yield check


def stage_checks(config: Config) -> Iterator[Check]:
    """Check every stage."""
    on = {FLAGS[name].stage for name, value in flag_values(config.default_features).items() if value is True}
    needed = on | {Stage.RETRIEVE, Stage.UNKNOWN}
    for stage in config.stages:
        if not stage.serving or stage.problem:
            finding = f"{stage.address}: {stage.problem or 'not serving'}"
            remedy = "start it, or read the reason in its log; `make up` starts all stages here"
            if stage.stage in needed:
                yield fail(stage.stage, finding, remedy)
            else:
                yield warn(
                    stage.stage, finding, f"{remedy}. It is off by default: only requests that ask for it notice"
                )
        elif stage.model and stage.model.pseudo:
            yield warn(
                stage.stage,
                "pseudo-embeddings serve: search by meaning finds nothing but chance",
                "set EMBEDDING_MODEL for the embedder, start it again, and index again",
            )
        else:
            model = stage.model.name if stage.model else ""
            yield ok(stage.stage, ", ".join(part for part in (stage.address, model, runtime_of(stage.model)) if part))


def collection_check(config: Config, name: str = "") -> Check:
    """Check the collection: existence, passages, and model."""
    found = config.collection
    serving = {stage.stage for stage in config.stages if stage.serving}
    embedders = [stage.model for stage in config.stages if stage.stage is Stage.EMBED and stage.model]
    if Stage.RETRIEVE not in serving:
        return warn("collection", f"{name or 'the default one'}: no retriever to ask", "bring the retriever up first")
    if found is None:
        missing = f"{name or 'the default one'} does not exist yet"
        return warn("collection", missing, "store something: sluice index FOLDER")
    made_by = f"{found.collection} ({found.version}), vectors by {found.model.name}"
    if embedders and all(model.fingerprint != found.model.fingerprint for model in embedders):
        model = embedders[0]
        return fail(
            "collection",
            f"{made_by}, but the embedder serves {model.name} ({model.fingerprint[:8]}, not "
            f"{found.model.fingerprint[:8]})",
            "serve the model that made it next to the other (EMBEDDER_ADDITIONAL_ADDRESSES), then: "
            f"sluice reindex --model {model.name}",
        )
    if not found.passage_count:
        return warn("collection", f"{made_by}, is empty", "store something: sluice index FOLDER")
    return ok("collection", f"{made_by}, {found.passage_count:,} passages")


async def _question_checks(client: AsyncClient, config: Config) -> AsyncIterator[Check]:
    """Send one question through every stage that serves."""
    serving = {stage.stage for stage in config.stages if stage.serving}
    if Stage.RETRIEVE not in serving or config.collection is None or not config.collection.passage_count:
        return
    switches = {flag.name: flag.stage in serving for flag in FLAGS.values() if flag.kind is bool}
    started = time.perf_counter()
    try:
        answer = await client.search(
            "is everything working?",
            limit=1,
            collection=config.collection.collection,
            features=features(**switches, **PROBE),
        )
    except SluiceError as error:
        yield fail("question", error.message, remedy_of(error))
        return
    seconds = time.perf_counter() - started
    ran = ", ".join(report.stage for report in answer.stages if report.outcome is Outcome.RAN)
    yield ok("question", f"answered in {seconds * 1000:.0f} ms; ran: {ran}")
    for report in answer.stages:
        if check := report_check(report):
            yield check


def report_check(report: StageReport) -> Check | None:
    """Check a stage by its report on the probing question, if needed."""
    if report.stage is Stage.EXPAND and report.outcome is Outcome.RAN:
        return ok("wordnet", "synonyms are served")
    if report.stage is Stage.EXPAND and report.outcome is Outcome.DEGRADED:
        return warn(
            "wordnet",
            f"no synonyms: {report.detail}",
            "where the expander runs: `make wordnet`; then start it again",
        )
    if report.reason in TOKENS_MISSING:
        return warn("token vectors", report.detail, TOKENS_MISSING[report.reason])
    # Pseudo-embeddings have their own check, and an answer without candidates is healthy.
    if report.outcome is Outcome.FAILED:
        return fail(f"question: {report.stage}", f"{report.reason}: {report.detail}", "see the log of that stage")
    return None
