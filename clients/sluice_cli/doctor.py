"""`sluice doctor`: what is wrong, and what to do about it. Asks the gateway, then looks at this machine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

from rich.text import Text

from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, remedy_of, stdout
from sluice_cli.checks import Check, Status, fail, ok, warn
from sluice_cli.machine import machine_checks, start_checks
from sluice_client import (
    Config,
    Features,
    Outcome,
    SluiceClient,
    SluiceError,
    Stage,
    StageConfig,
    StageReport,
    Strategy,
)

STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
# Enough to see that the reranker does its work, little enough to be no burden.
PROBE_CANDIDATES = 4


async def doctor(connection: Connection, collection: str, *, as_json: bool) -> int:
    """Checks and tells; the exit code."""
    checks: list[Check] = []
    async for check in _checks(connection, collection):
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
    """A check for people: one line, and one for the remedy."""
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
            yield fail("gateway", error.message, remedy_of(error, connection.gateway))
        else:
            milliseconds = (time.perf_counter() - started) * 1000
            yield ok("gateway", f"{connection.gateway} answers in {milliseconds:.0f} ms, release {config.release}")
            for check in stage_checks(config):
                yield check
            yield collection_check(config)
            async for check in _question_checks(client, config):
                yield check
    for check in await asyncio.to_thread(lambda: list(machine_checks())):
        yield check
    if config is None:  # a gateway that serves says more about its models than this machine could
        for check in await asyncio.to_thread(lambda: list(start_checks())):
            yield check


def stage_checks(config: Config) -> Iterator[Check]:
    """One check a stage."""
    needed = {
        Stage.EXPAND: config.default_features.expansion,
        Stage.EMBED: config.default_features.dense,
        Stage.RETRIEVE: True,
        Stage.RERANK: config.default_features.rerank,
    }
    for stage in config.stages:
        if not stage.serving or stage.problem:
            finding = f"{stage.address}: {stage.problem or 'not serving'}"
            remedy = "start it, or see in its log why it does not serve; `make up` starts all stages here"
            if needed.get(stage.stage, True):
                yield fail(stage.stage, finding, remedy)
            else:
                yield warn(stage.stage, finding, f"{remedy}. It is off by default, and only who asks for it notices")
        elif stage.pseudo:
            yield warn(
                stage.stage,
                "pseudo-embeddings serve: search by meaning finds nothing but chance",
                "set EMBEDDING_MODEL for the embedder, start it again, and index again",
            )
        else:
            yield ok(stage.stage, ", ".join(part for part in (stage.address, stage.model, stage.runtime) if part))


def collection_check(config: Config) -> Check:
    """Whether the collection is there, holds something, and was built by the model that serves."""
    collection = config.collection
    retriever = _stage(config, Stage.RETRIEVE)
    served = {stage.model_fingerprint: stage for stage in config.stages if stage.stage is Stage.EMBED}
    if retriever is None or not retriever.serving:
        return warn("collection", f"{collection.name}: nobody to ask", "bring the retriever up first")
    if not collection.exists:
        return warn("collection", f"{collection.name} does not exist yet", "store something: sluice index FOLDER")
    made_by = f"{collection.name} ({collection.index_version}), vectors by {collection.model}"
    served.pop("", None)  # an embedder that is down does not tell
    if served and collection.model_fingerprint not in served:
        embedder = next(iter(served.values()))
        return fail(
            "collection",
            f"{made_by}, but the embedder serves {embedder.model} ({embedder.model_fingerprint[:8]}, not "
            f"{collection.model_fingerprint[:8]})",
            "serve the model that made it beside (EMBEDDER_ADDITIONAL_ADDRESSES), then: "
            f"sluice reindex --model {embedder.model}",
        )
    if not collection.document_count:
        return warn("collection", f"{made_by}, is empty", "store something: sluice index FOLDER")
    return ok("collection", f"{made_by}, {collection.document_count:,} documents")


async def _question_checks(client: SluiceClient, config: Config) -> AsyncIterator[Check]:
    """Sends one question through every stage that serves."""
    serving = {stage.stage for stage in config.stages if stage.serving}
    if Stage.RETRIEVE not in serving or not config.collection.document_count:
        return
    started = time.perf_counter()
    try:
        answer = await client.search(
            "is everything working?",
            limit=1,
            collection=config.collection.name,
            features=Features(
                dense=Stage.EMBED in serving,
                lexical=True,
                expansion=Stage.EXPAND in serving,
                expansion_strategy=Strategy.SYNONYMS,
                rerank=Stage.RERANK in serving,
                rerank_candidate_count=PROBE_CANDIDATES,
            ),
        )
    except SluiceError as error:
        yield fail("question", error.message, remedy_of(error, client.address))
        return
    seconds = time.perf_counter() - started
    ran = ", ".join(report.stage for report in answer.stages if report.outcome is Outcome.RAN)
    yield ok("question", f"answered in {seconds * 1000:.0f} ms; ran: {ran}")
    for report in answer.stages:
        if check := report_check(report):
            yield check


def report_check(report: StageReport) -> Check | None:
    """What a stage's report on the probing question says about its health; None where that is nothing."""
    if report.stage is Stage.EXPAND and report.outcome is Outcome.RAN:
        return ok("wordnet", "synonyms are served")
    if report.stage is Stage.EXPAND and report.outcome is Outcome.DEGRADED:
        return warn(
            "wordnet",
            f"no synonyms: {report.detail}",
            "where the expander runs: `make wordnet`; then start it again",
        )
    # Pseudo-embeddings have been told of, and nothing to rerank is no illness.
    if report.outcome is Outcome.FAILED:
        return fail(f"question: {report.stage}", f"{report.reason}: {report.detail}", "see the log of that stage")
    return None


def _stage(config: Config, stage: Stage) -> StageConfig | None:
    return next((found for found in config.stages if found.stage is stage), None)
