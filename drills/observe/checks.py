"""Checks of `make observe-check`, a row each."""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deploy.local.stack import SEARCHED, STAGES
from drills.observe import dashboards
from drills.observe.collector import Received
from drills.observe.platform import ALL_FEATURES, QUERY, SECRET, Platform, query_hash
from drills.observe.prometheus import RULE_TESTS, RULES, promtool
from drills.observe.series import STILL, verdicts
from drills.parts.qdrant import Gate
from sluice.gateway.v1 import search_pb2 as pb

SERVICES = {f"sluice-{stage}" for stage in SEARCHED}
_CODES = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "UNAVAILABLE"}
_SEARCH = 'grpc_service="sluice.gateway.v1.SearchService", grpc_method="Search"'
_WINDOW = "10m"
# A stage that was too busy to be scraped has no series until it is again.
_SCRAPES = 10


@dataclass(frozen=True)
class Row:
    """One expectation, and what was seen."""

    group: str
    what: str
    ok: bool
    seen: str


async def metrics(platform: Platform) -> AsyncIterator[Row]:
    """After `platform.drive`: series, codes, exemplars, features."""
    for verdict in await verdicts(platform.prometheus, _WINDOW):
        yield Row("metrics", f"{verdict.name} moves", verdict.ok, verdict.seen)
    codes = {
        sample.labels["grpc_code"]
        for sample in await platform.prometheus.query(f"grpc_server_handled_total{{{_SEARCH}}} > 0")
    }
    yield Row("metrics", f"searches end with {', '.join(sorted(_CODES))}", codes >= _CODES, ", ".join(sorted(codes)))
    enriched = await platform.prometheus.total(
        'sluice_stage_latency_seconds_count{stage="retrieve", expansion="on", rerank="on"}'
    )
    yield Row(
        "metrics", "retrieval with expansion and reranking has a latency of its own", enriched > 0, f"{enriched:g}"
    )
    known = {each.span.trace_id.hex() for each in platform.collector.spans}
    for name in ("sluice_search_latency_seconds", "grpc_server_handling_seconds", "embedding_latency_seconds"):
        exemplars = await platform.prometheus.exemplars(f"{name}_bucket")
        found = [labels for labels in exemplars if labels.get("trace_id") in known]
        yield Row(
            "metrics",
            f"exemplars of {name} are traces that were exported",
            bool(found),
            f"{len(found)} of {len(exemplars)}",
        )


async def traces(platform: Platform) -> AsyncIterator[Row]:
    """One search with all features, one that is cancelled, and a collector that is down."""
    qdrant_traces: set[str] = set()

    async def note(_method: str, context: grpc.aio.ServicerContext) -> None:
        for key, value in context.invocation_metadata() or ():
            if key == "traceparent":
                qdrant_traces.add(str(value).split("-")[1])

    platform.qdrant.fault = note
    identity = uuid.uuid4().hex
    answer = await platform.search(f"{QUERY} {identity[:8]}", request_id=identity, features=ALL_FEATURES)
    platform.qdrant.fault = None
    spans = await platform.collector.trace_of(identity, lambda found: {each.service for each in found} >= SERVICES)
    await asyncio.sleep(1)  # the last spans of a trace come from the stages that ended last
    spans = await platform.collector.trace_of(identity, lambda found: {each.service for each in found} >= SERVICES)
    ran = all(report.outcome == pb.STAGE_OUTCOME_RAN for report in answer.stages)
    yield Row("traces", "all stages run for a search with all features", ran, f"{len(answer.stages)} stages")
    for row in _tree(spans):
        yield row
    trace_id = spans[0].span.trace_id.hex()
    yield Row("traces", "Qdrant is told the trace", trace_id in qdrant_traces, f"{len(qdrant_traces)} traces")
    linked = [each for each in spans if each.service in {"sluice-embedder", "sluice-reranker"} and each.span.links]
    batches = {each.span.span_id: each for each in platform.collector.spans if each.span.name == "batch"}
    both_ways = [
        each
        for each in linked
        for link in each.span.links
        if (batch := batches.get(link.span_id)) and each.span.span_id in {back.span_id for back in batch.span.links}
    ]
    yield Row(
        "traces",
        "calls of a model stage and their batches are linked, both ways",
        {each.service for each in both_ways} == {"sluice-embedder", "sluice-reranker"},
        f"{len(both_ways)} links, {len(batches)} batches",
    )
    async for row in _cancelled(platform):
        yield row
    async for row in _collector_down(platform):
        yield row


def _tree(spans: Sequence[Received]) -> list[Row]:
    by_id = {each.span.span_id: each for each in spans}
    roots = [each for each in spans if not each.span.parent_span_id]
    rows = [
        Row("traces", "it is one trace with one root, in the gateway", len(roots) == 1, f"{len(spans)} spans"),
        Row(
            "traces",
            "every span's parent is in it",
            all(each.span.parent_span_id in by_id for each in spans if each not in roots),
            ", ".join(f"{count} {name}" for name, count in Counter(each.service for each in spans).items()),
        ),
    ]
    root = roots[0]
    served = [each for each in spans if each.span.kind == Span.SPAN_KIND_SERVER and each is not root]
    parents = [by_id.get(each.span.parent_span_id) for each in served]
    rows.append(
        Row(
            "traces",
            "every stage is called by the gateway, below its search",
            all(
                parent is not None
                and (parent.service, parent.span.kind) == ("sluice-gateway", Span.SPAN_KIND_CLIENT)
                and parent.span.parent_span_id == root.span.span_id
                for parent in parents
            ),
            ", ".join(sorted({each.service for each in served})),
        )
    )
    began = {each.span.name.rpartition("/")[2]: each.span.start_time_unix_nano for each in served}
    order = [name for name, _ in sorted(began.items(), key=lambda item: item[1])]
    wanted = ["ExpandQuery", "EmbedTexts", "SearchPassages", "RerankPassages"]
    rows.append(
        Row(
            "traces",
            "expansion, embedding of the variants, retrieval, reranking: in this order",
            [name for name in order if name in wanted] == wanted,
            " → ".join(order),
        )
    )
    qdrant = [each for each in spans if each.span.name.startswith("qdrant ")]
    below = {by_id[each.span.parent_span_id].span.name for each in qdrant if each.span.parent_span_id in by_id}
    rows.append(
        Row(
            "traces",
            "calls to Qdrant have spans below the retriever's",
            "sluice.retriever.v1.RetrieverService/SearchPassages" in below,
            ", ".join(sorted(each.span.name for each in qdrant)),
        )
    )
    attributes = {each.service: each.attributes for each in served} | {root.service: root.attributes}
    told = {
        "sluice-gateway": ("sluice.features.expansion", "sluice.features.rerank", "sluice.outcome", "sluice.results"),
        "sluice-expander": ("sluice.strategy", "sluice.variants", "sluice.outcome"),
        "sluice-embedder": ("sluice.model", "sluice.rows", "sluice.tokens"),
        "sluice-retriever": ("sluice.index", "sluice.candidates"),
        "sluice-reranker": ("sluice.model", "sluice.rows"),
    }
    missing = [f"{name}: {key}" for name, keys in told.items() for key in keys if key not in attributes.get(name, {})]
    rows.append(
        Row(
            "traces", "spans tell features, counts, models and outcomes", not missing, ", ".join(missing) or "all there"
        )
    )
    shown = [each.span.name for each in spans if SECRET in str(each.span)]
    rows.append(Row("traces", "no span holds query or document text", not shown, ", ".join(shown) or "none"))
    return rows


async def _cancelled(platform: Platform) -> AsyncIterator[Row]:
    await platform.search(QUERY)  # what is known of the collection is fresh: the call that is held will be the search
    gate = Gate()
    platform.qdrant.fault = gate
    identity = uuid.uuid4().hex
    leaving = asyncio.create_task(platform.search(f"{QUERY} {identity[:8]}", request_id=identity))
    await gate.holds(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    names = {
        "sluice.gateway.v1.SearchService/Search",
        "sluice.retriever.v1.RetrieverService/SearchPassages",
        "qdrant search",
    }

    def whole(found: Sequence[Received]) -> bool:
        cancelled = Counter(each.span.name for each in found if each.code == "CANCELLED")
        return (
            all(cancelled[name] for name in names)
            and cancelled["sluice.retriever.v1.RetrieverService/SearchPassages"] == 2
        )

    try:
        spans = await platform.collector.trace_of(identity, whole)
        ended = Counter(each.code for each in spans)
        seen = ", ".join(f"{count} {code}" for code, count in ended.items())
    except TimeoutError:
        spans, seen = [], "some spans never ended"
    platform.qdrant.fault = None
    gate.open.set()
    yield Row("traces", "a search cancelled in Qdrant ends all its spans, as CANCELLED where it was", bool(spans), seen)
    statuses = {each.span.status.code for each in spans if each.code == "CANCELLED"}
    yield Row("traces", "their status says so", statuses == {Status.STATUS_CODE_ERROR}, f"{len(spans)} spans")


async def _collector_down(platform: Platform) -> AsyncIterator[Row]:
    await platform.collector.stop()
    answers = await platform.searches(8)
    lost = 0.0
    async with asyncio.timeout(60):
        while not lost:
            lost = await platform.prometheus.total('sluice_spans_total{result="lost"}')
            await asyncio.sleep(0.5)
    answered = sum(isinstance(answer, pb.SearchResponse) for answer in answers)
    yield Row(
        "traces", "a collector that is down costs spans, and no answers", answered == len(answers), f"{lost:g} lost"
    )
    await platform.collector.start()
    before = len(platform.collector.spans)
    async with asyncio.timeout(60):
        while len(platform.collector.spans) == before:
            await platform.searches(1)
            await asyncio.sleep(1)
    yield Row(
        "traces", "and gets them again when it is back", ok=True, seen=f"{len(platform.collector.spans) - before} spans"
    )


async def logs(platform: Platform) -> AsyncIterator[Row]:
    """Lines of one request in every stage, and what they do not hold."""
    identity = uuid.uuid4().hex
    query = f"{QUERY} {identity[:8]}"
    await platform.search(query, request_id=identity, features=ALL_FEATURES)
    spans = await platform.collector.trace_of(identity, lambda found: {each.service for each in found} >= SERVICES)
    trace_id = spans[0].span.trace_id.hex()
    lines = {
        stage: [json.loads(line) for line in platform.stack.log(stage).read_text().splitlines() if line.startswith("{")]
        for stage in SEARCHED
    }
    of_request = {stage: [line for line in lines[stage] if line.get("request_id") == identity] for stage in SEARCHED}
    same = all(line.get("trace_id") == trace_id for found in of_request.values() for line in found)
    yield Row("logs", "every stage logs the request with its trace", same and all(of_request.values()), trace_id)
    served = Counter(each.service for each in spans if each.span.kind == Span.SPAN_KIND_SERVER)
    counts = {stage: len(found) for stage, found in of_request.items()}
    yield Row(
        "logs",
        "one line a call",
        all(served[f"sluice-{stage}"] == count for stage, count in counts.items()),
        ", ".join(f"{count} {stage}" for stage, count in counts.items()),
    )
    hashed = [line.get("query_hash") for line in of_request["gateway"]]
    yield Row("logs", "the query is there as a keyed hash", hashed == [query_hash(query)], str(hashed))
    telling = [stage for stage in STAGES if SECRET in platform.stack.log(stage).read_text()]
    yield Row("logs", "no log holds query or document text", not telling, ", ".join(telling) or "none")


async def rules(platform: Platform) -> AsyncIterator[Row]:
    """Rules of deploy/prometheus, by promtool and by Prometheus itself."""
    files = sorted(map(str, RULES.glob("*.yaml")))
    if not files:
        yield Row("rules", "there are rules", ok=False, seen=f"nothing in {RULES}")
        return
    ok, said = await promtool("check", "rules", *files)
    yield Row("rules", "promtool check rules", ok, _last(said))
    for test in sorted(RULE_TESTS.glob("*.yaml")):
        ok, said = await promtool("test", "rules", str(test))
        yield Row("rules", f"promtool test rules {test.name}", ok, _last(said))
    loaded = await platform.prometheus.rules()
    broken = [rule["name"] for rule in loaded if rule["health"] != "ok"]
    yield Row(
        "rules", "Prometheus evaluates all of them", bool(loaded) and not broken, ", ".join(broken) or f"{len(loaded)}"
    )


async def panels(platform: Platform) -> AsyncIterator[Row]:
    """Every query of every dashboard."""
    queries = dashboards.queries()
    if not queries:
        yield Row("dashboards", "there are dashboards", ok=False, seen=f"nothing in {dashboards.FOLDER}")
    left_out = [query for query in queries if any(name in query.expression for name in STILL)]
    for query in queries:
        if query in left_out:
            continue
        for _ in range(_SCRAPES):
            ok, seen = await _answered(platform, query.expression)
            if ok:
                break
            await platform.prometheus.scraped(1)
        yield Row("dashboards", f"{query.dashboard}: {query.panel}", ok, seen)
    if left_out:
        yield Row("dashboards", "left out: what only faults show", ok=True, seen=f"{len(left_out)} queries")


async def _answered(platform: Platform, expression: str) -> tuple[bool, str]:
    try:
        samples = await platform.prometheus.query(expression)
    except ValueError as error:
        return False, f"{error}: {expression}"
    data = [sample for sample in samples if not math.isnan(sample.value)]
    return bool(data), f"{len(data)} of {len(samples)} series" + ("" if data else f": {expression}")


Check = Callable[[Platform], AsyncIterator[Row]]
CHECKS: dict[str, Check] = {"metrics": metrics, "dashboards": panels, "traces": traces, "logs": logs, "rules": rules}


def _last(said: str) -> str:
    return said.splitlines()[-1].strip() if said else ""
