"""Measurements that need no other server, one function a row; see peers.py for the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.speed.load import OK, Call, Endpoint, Report
from bench.speed.loss import ndcg_loss
from bench.speed.predict import BATCHES, DEFAULT_BATCH, PredictProcess
from bench.speed.results import Row, compared, percentiles
from bench.speed.session import (
    Payload,
    Session,
    document_calls,
    embed,
    embed_document,
    embed_query,
    rerank,
    rerank_calls,
    workload,
)
from bench.speed.workload import PASSAGES
from sluice_statistics.percentiles import percentile

INT8 = {"EMBEDDING_PRECISION": "int8"}
RERANK_INT8 = {"RERANK_PRECISION": "int8"}

_SECONDS = 6.0
# More calls are prepared than any stage here can answer, so that no window runs out of new texts.
_MIXED_A_SECOND = 1000
_SHORT_A_SECOND = 4000
_QUESTIONS_A_SECOND = 12

_INTERACTIVE_A_SECOND = 25.0
_INTERACTIVE_SECONDS = 16.0
_BULK_CLIENTS, _BULK_TEXTS = 4, 32
_BULK_LEAD_SECONDS = 1.0

_OVERLOAD = 10
_OVERLOAD_TEXTS = 16
_OVERLOAD_DEADLINE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Measurement:
    """A function that measures, and the rows that come of it."""

    names: tuple[str, ...]
    run: Callable[[Session], Iterator[Row]]


def _embed_throughput_vs_raw(session: Session) -> Iterator[Row]:
    yield _embed_against_raw(session, "embed/throughput_vs_raw@c32", {})
    yield _embed_against_raw(session, "embed/throughput_vs_raw@c32 (int8)", INT8)


def _embed_against_raw(session: Session, name: str, environment: Mapping[str, str]) -> Row:
    server, raw = session.stage("embedder", environment), session.raw("embedder", environment)
    cut, rates = raw.best_cut([text.text for text in workload("cut", 0).mixed(128)])
    clients: list[float] = []

    def ours(number: int) -> float:
        report = mixed_load(session, embed(server), number)
        clients.append(report.cpu_seconds / max(1, len(report.samples)) * 1000)
        return report.rate()

    def reference(number: int) -> float:
        texts = workload(name, number).mixed(int(512 * max(session.scale, 0.5)))
        return raw.rate([text.text for text in texts], cut)

    rounds = session.interleaved(name, [ours, reference])
    return compared(
        name,
        rounds,
        "texts/s",
        raw_cut=str(cut),
        raw_rates=rates,
        client_ms_a_call=round(percentile(clients, 50), 3),
    )


def _embed_short_query_overhead(session: Session) -> Iterator[Row]:
    name = "embed/short_query_overhead_ms@c1"
    server, raw = session.stage("embedder"), session.raw("embedder")
    every: tuple[list[float], list[float]] = [], []

    def ours(number: int) -> float:
        taken = short_load(session, embed(server), number, concurrency=1).milliseconds()
        every[0].extend(taken)
        return percentile(taken, 50)

    def reference(number: int) -> float:
        texts = workload(name, number).short(int(800 * session.scale))
        taken = raw.milliseconds([text.text for text in texts])
        every[1].extend(taken)
        return percentile(taken, 50)

    rounds = session.interleaved(name, [ours, reference])
    yield compared(
        name,
        rounds,
        "ms (p50)",
        over_grpc=percentiles(every[0]),
        in_process=percentiles(every[1]),
        differences=[round(one - other, 3) for one, other in rounds],
    )


def _interactive_under_bulk(session: Session) -> Iterator[Row]:
    yield from _under_bulk(session, "", {})
    yield from _under_bulk(session, " (int8)", INT8)


def _under_bulk(session: Session, suffix: str, environment: Mapping[str, str]) -> Iterator[Row]:
    server = session.stage("embedder", environment)
    seconds = _INTERACTIVE_SECONDS * session.scale
    idle_ms: list[float] = []
    busy_ms: list[float] = []

    def bulk(number: int, longer: float) -> Any:
        texts = workload("bulk", number).mixed(int((seconds + longer + 2) * _MIXED_A_SECOND))
        calls = document_calls([text.text for text in texts], _BULK_TEXTS, bulk=True)
        return session.load(1).closed_loop(
            embed(server),
            calls,
            concurrency=_BULK_CLIENTS,
            seconds=seconds + longer,
            warm_up_seconds=_BULK_LEAD_SECONDS,
        )

    def interactive(number: int) -> Report:
        texts = workload("interactive", number).short(int(seconds * _INTERACTIVE_A_SECOND * 2) + 50)
        calls = [Call(embed_query(text.text), 1) for text in texts]
        report = (
            session.load()
            .open_loop(embed(server), calls, per_second=_INTERACTIVE_A_SECOND, seconds=seconds, seed=number)
            .result()
        )
        return _all_ok(report)

    def idle(number: int) -> tuple[float, float]:
        taken = interactive(2 * number).milliseconds()
        idle_ms.extend(taken)
        return percentile(taken, 99), 0.0

    def alone(number: int) -> tuple[float, float]:
        return 0.0, _all_ok(bulk(2 * number, 0.0).result()).rate()

    def both(number: int) -> tuple[float, float]:
        running = bulk(2 * number + 1, 2.0)
        time.sleep(_BULK_LEAD_SECONDS + 0.5)
        report = interactive(2 * number + 1)
        busy_ms.extend(report.milliseconds())
        return percentile(report.milliseconds(), 99), running.result().rate(report.started, report.ended)

    rounds = session.interleaved(f"embed/interactive_p99_under_bulk{suffix}", [idle, alone, both])
    kept = compared(
        f"embed/bulk_rate_under_interactive{suffix}",
        [(busy[1], alone[1]) for _, alone, busy in rounds],
        "texts/s",
    )
    yield compared(
        f"embed/interactive_p99_under_bulk{suffix}",
        [(busy[0], idle[0]) for idle, _, busy in rounds],
        "ms (p99)",
        idle=percentiles(idle_ms),
        under_bulk=percentiles(busy_ms),
        queries_a_second=_INTERACTIVE_A_SECOND,
        bulk_kept=kept.ratio and round(kept.ratio, 4),
    )
    yield kept


def _rerank_throughput_vs_sentence_transformers(session: Session) -> Iterator[Row]:
    name = f"rerank/throughput_vs_sentence_transformers@{PASSAGES}"
    server, int8 = session.stage("reranker"), session.stage("reranker", RERANK_INT8)
    with PredictProcess() as predict:
        questions = workload("batch", 0).questions(2)
        rates = {batch: predict.rate(questions, batch) for batch in BATCHES for _ in range(2)}
        best = max(rates, key=rates.__getitem__)

        def ours(number: int) -> float:
            return rerank_load(session, rerank(server), number, concurrency=1, seconds=2 * _SECONDS).rate()

        def ours_int8(number: int) -> float:
            return rerank_load(session, rerank(int8), number, concurrency=1, seconds=2 * _SECONDS).rate()

        def reference(number: int) -> float:
            return predict.rate(workload(name, number).questions(max(1, int(8 * session.scale))))

        def reference_best(number: int) -> float:
            return predict.rate(workload(name, number).questions(max(1, int(8 * session.scale))), best)

        rounds = session.interleaved(name, [ours, ours_int8, reference, reference_best])
    yield compared(
        name,
        [(one, other) for one, _, other, _ in rounds],
        "passages/s",
        concurrency=1,
        predict_batch_size=DEFAULT_BATCH,
    )
    yield compared(
        f"{name} (int8)",
        [(one, other) for _, one, other, _ in rounds],
        "passages/s",
        concurrency=1,
        predict_batch_size=DEFAULT_BATCH,
    )
    yield compared(
        f"{name} (its best batch size)",
        [(one, other) for one, _, _, other in rounds],
        "passages/s",
        concurrency=1,
        predict_batch_size=best,
        note=f"predict with batch_size={best}, the best of {', '.join(map(str, BATCHES))}",
    )


def _rerank_throughput_vs_raw(session: Session) -> Iterator[Row]:
    name = "rerank/throughput_vs_raw@c8"
    server, raw = session.stage("reranker"), session.raw("reranker")
    cut, rates = raw.best_cut(workload("cut", 0).questions(2))

    def ours(number: int) -> float:
        return rerank_load(session, rerank(server), number, concurrency=8, seconds=3 * _SECONDS).rate()

    def reference(number: int) -> float:
        return raw.rate(workload(name, number).questions(max(2, int(16 * session.scale))), cut)

    rounds = session.interleaved(name, [ours, reference])
    yield compared(
        name,
        rounds,
        "passages/s",
        raw_cut=str(cut),
        raw_rates=rates,
        passages=PASSAGES,
    )


def _embed_int8_vs_fp32(session: Session) -> Iterator[Row]:
    name = "embed/int8_throughput_vs_fp32@c32"
    int8, fp32 = session.stage("embedder", INT8), session.stage("embedder")
    rounds = session.interleaved(
        name,
        [
            lambda number: mixed_load(session, embed(int8), number).rate(),
            lambda number: mixed_load(session, embed(fp32), number).rate(),
        ],
    )
    loss = ndcg_loss(session.raw("embedder"), session.raw("embedder", INT8))
    yield compared(name, rounds, "texts/s", **loss)


def _rejected_within(session: Session) -> Iterator[Row]:
    name = "embed/rejected_within_ms"
    server = session.stage("embedder")
    seconds = _SECONDS * session.scale
    outcomes: dict[str, int] = {}
    refused_ms: list[float] = []

    def calls(purpose: str, number: int, count: int) -> list[Call]:
        texts = workload(purpose, number).mixed(count * _OVERLOAD_TEXTS)
        return document_calls([text.text for text in texts], _OVERLOAD_TEXTS)

    def capacity(number: int) -> Report:
        given = calls("capacity", number, int((seconds + 1) * _MIXED_A_SECOND / _OVERLOAD_TEXTS) + 1)
        return session.load().closed_loop(embed(server), given, concurrency=4, seconds=seconds).result()

    def overload(number: int) -> tuple[float, Report, float]:
        answered = _all_ok(capacity(number)).rate() / _OVERLOAD_TEXTS
        offered = answered * _OVERLOAD
        report = (
            session.load()
            .open_loop(
                embed(server),
                calls(name, number, int(offered * seconds * 1.5) + 10),
                per_second=offered,
                seconds=seconds,
                timeout=_OVERLOAD_DEADLINE_SECONDS,
                seed=number,
            )
            .result()
        )
        for code, count in report.codes().items():
            outcomes[code] = outcomes.get(code, 0) + count
        refused = report.milliseconds("RESOURCE_EXHAUSTED")
        refused_ms.extend(refused)
        return percentile(refused, 99), report, answered

    rounds = [answer for (answer,) in session.interleaved(name, [overload])]
    yield compared(
        name,
        [(p99, 20.0) for p99, _, _ in rounds],
        "ms (p99)",
        note="reference: the bar itself",
        refused=percentiles(refused_ms),
        outcomes=outcomes,
        deadline_ms=_OVERLOAD_DEADLINE_SECONDS * 1000,
        texts_a_call=_OVERLOAD_TEXTS,
        answered_of_capacity=[
            round(report.codes().get(OK, 0) / (report.ended - report.started) / answered, 3)
            for _, report, answered in rounds
        ],
    )


MEASUREMENTS = (
    Measurement(("embed/throughput_vs_raw@c32",), _embed_throughput_vs_raw),
    Measurement(("embed/short_query_overhead_ms@c1",), _embed_short_query_overhead),
    Measurement(
        ("embed/interactive_p99_under_bulk", "embed/bulk_rate_under_interactive"),
        _interactive_under_bulk,
    ),
    Measurement(
        (f"rerank/throughput_vs_sentence_transformers@{PASSAGES}",), _rerank_throughput_vs_sentence_transformers
    ),
    Measurement(("rerank/throughput_vs_raw@c8",), _rerank_throughput_vs_raw),
    Measurement(("embed/int8_throughput_vs_fp32@c32",), _embed_int8_vs_fp32),
    Measurement(("embed/rejected_within_ms",), _rejected_within),
)


def mixed_load(session: Session, endpoint: Endpoint, number: int, payload: Payload = embed_document) -> Report:
    """Mixed texts, one a call, from 32 clients."""
    seconds = _SECONDS * session.scale
    texts = workload("mixed", number).mixed(int((seconds + 1) * _MIXED_A_SECOND))
    calls = [Call(payload(text.text), 1) for text in texts]
    return _all_ok(session.load().closed_loop(endpoint, calls, concurrency=32, seconds=seconds).result())


def short_load(
    session: Session, endpoint: Endpoint, number: int, concurrency: int, payload: Payload = embed_query
) -> Report:
    """Short queries, one a call, from a number of clients."""
    seconds = _SECONDS * session.scale / 2
    texts = workload(f"short {concurrency}", number).short(int((seconds + 1) * _SHORT_A_SECOND))
    calls = [Call(payload(text.text), 1) for text in texts]
    return _all_ok(session.load().closed_loop(endpoint, calls, concurrency=concurrency, seconds=seconds).result())


def rerank_load(session: Session, endpoint: Endpoint, number: int, concurrency: int, seconds: float) -> Report:
    """Questions with passages from a number of clients."""
    seconds *= session.scale
    questions = workload("rerank", number).questions(int((seconds + 2) * _QUESTIONS_A_SECOND))
    calls = rerank_calls(questions)
    return _all_ok(session.load().closed_loop(endpoint, calls, concurrency=concurrency, seconds=seconds).result())


def _all_ok(report: Report) -> Report:
    """The report of a run in which nothing was refused or failed; anything else would be no measurement."""
    if set(report.codes()) - {OK}:
        raise RuntimeError(f"only {OK} was expected of the stage: {report.codes()}")
    if report.ran_dry:
        raise RuntimeError("the stage answered faster than there were texts prepared")
    return report
