"""`python -m drills.answers`: a real small language model behind the reasoner; build/answers.json.

The reasoner and SmolLM2-135M behind llama.cpp's server run on this machine. Asked are 20 questions over passages in
questions.json, each by the OpenAI-compatible API; some by Ollama's, through an adapter; and one beside each of 20
hostile passages. With --data, the folder hotpotqa_train100 in BEIR's form, 18 of its questions are asked as well, over
their two passages and two others; their answers are in hotpotqa.json.
"""

from __future__ import annotations

import asyncio
import json
import re
import string
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from deploy.local.llm import CONTEXT_TOKENS, served
from deploy.local.paths import BUILD, shown
from services.chassis.client import StageChannel
from services.chassis.server import serving
from services.reasoner.__main__ import compose
from services.reasoner.answers import Passage
from services.reasoner.citations import Folded
from services.reasoner.extraction import extract
from services.reasoner.settings import ReasonerSettings
from sluice.reasoner.v1 import reasoner_pb2, reasoner_pb2_grpc
from sluice.type.v1 import answer_pb2
from tests.ollama_adapter import ollama_in_front_of
from tests.unit.reasoner.hostile import HOSTILE, QUESTION
from tests.unit.reasoner.hostile import passages as around
from tools import fetch_llm

RESULT = BUILD / "answers.json"
QUESTIONS = Path(__file__).with_name("questions.json")
HOTPOTQA = Path(__file__).with_name("hotpotqa.json")
_LONG_SECONDS = 600.0
_SHORT_SECONDS = 1.5
_OLLAMA_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its passages and right answers."""

    question: str
    passages: Sequence[reasoner_pb2.SourcePassage]
    answers: Sequence[str]


@dataclass(slots=True)
class Row:
    """Outcome of one check."""

    name: str
    ok: bool
    said: str
    figures: dict[str, Any] = field(default_factory=dict)


class Reasoner:
    """A running reasoner."""

    def __init__(self, channel: StageChannel) -> None:
        self._channel = channel
        self._stub = reasoner_pb2_grpc.ReasonerServiceStub(channel.channel)

    async def answer(
        self, question: str, passages: Sequence[Any], seconds: float = _LONG_SECONDS
    ) -> answer_pb2.WrittenAnswer:
        request = reasoner_pb2.ReasonRequest(question=question, passages=passages)
        reply = await self._channel.call(self._stub.Reason, request, deadline=time.monotonic() + seconds)
        return reply.answer

    async def stream(
        self, question: str, passages: Sequence[Any]
    ) -> AsyncGenerator[reasoner_pb2.StreamReasonResponse, None]:
        reason = reasoner_pb2.ReasonRequest(question=question, passages=passages)
        request = reasoner_pb2.StreamReasonRequest(reason=reason)
        deadline = time.monotonic() + _LONG_SECONDS
        async with aclosing(self._channel.stream(self._stub.StreamReason, request, deadline=deadline)) as events:
            async for event in events:
                yield event


@asynccontextmanager
async def reasoner(url: str, api: str = "openai") -> AsyncIterator[Reasoner]:
    """Run the reasoner over a server."""
    settings = ReasonerSettings(
        grpc_port=0, metrics_port=0, drain_seconds=0, log_level="ERROR", reasoner_llm_url=url, reasoner_llm_api=api,
        reasoner_llm_model=fetch_llm.NAME, reasoner_llm_seconds=_LONG_SECONDS, reasoner_context_tokens=CONTEXT_TOKENS,
        reasoner_output_tokens=512, reasoner_llm_concurrency=1,
    )  # fmt: skip
    async with (
        compose(settings) as stage,
        serving(stage, settings) as server,
        StageChannel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Reasoner(channel)


def questions_of(file: Path) -> list[Asked]:
    """Read questions."""
    content = json.loads(file.read_text(encoding="utf-8"))
    passages = {
        name: reasoner_pb2.SourcePassage(id=name, title=title, text=text)
        for name, (title, text) in content["passages"].items()
    }
    return [
        Asked(one["question"], [passages[name] for name in one["read"]], one["answers"]) for one in content["questions"]
    ]


def questions_in(folder: Path) -> list[Asked]:
    """Read the questions of a BEIR folder whose answers are known: with their passages, and two after the first."""
    known: dict[str, list[str]] = json.loads(HOTPOTQA.read_text(encoding="utf-8"))
    passages = {
        one["_id"]: reasoner_pb2.SourcePassage(id=one["_id"], title=one["title"], text=one["text"])
        for one in map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines())
    }
    order = list(passages)
    relevant: dict[str, list[str]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        question, passage, _ = line.split("\t")
        relevant.setdefault(question, []).append(passage)
    asked = []
    for one in map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()):
        if one["_id"] in known:
            gold = relevant[one["_id"]]
            place = order.index(gold[0])
            others = [name for name in order[place + 1 : place + 5] if name not in gold][:2]
            asked.append(Asked(one["text"], [passages[name] for name in (*others, *gold)], known[one["_id"]]))
    return asked


def misplaced(answer: answer_pb2.WrittenAnswer, passages: Sequence[Any]) -> int:
    """Count the citations that do not stand in their passage, looked at once more from outside."""
    texts = {passage.id: passage.text for passage in passages}
    return sum(
        texts.get(one.passage_id, "")[one.start : one.end] != one.quote
        or not Folded(texts[one.passage_id]).find(one.quote)
        for one in answer.citations
    )


def plain(text: str) -> list[str]:
    """Words of an answer as SQuAD compares them."""
    text = "".join(one for one in text.lower() if one not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(text: str, answers: Sequence[str]) -> bool:
    """True if an answer is one of the right ones."""
    return any(plain(text) == plain(one) for one in answers)


def f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of words with a right answer."""

    def of(answer: str) -> float:
        found, right = Counter(plain(text)), Counter(plain(answer))
        common = (found & right).total()
        return 2 * common / (found.total() + right.total()) if common else 0.0

    return max(map(of, answers))


async def asked(running: Reasoner, name: str, questions: Sequence[Asked]) -> Row:
    """Ask questions one after the other."""
    answers, seconds = [], []
    for one in questions:
        started = time.monotonic()
        answers.append(await running.answer(one.question, one.passages))
        seconds.append(time.monotonic() - started)
        _console.print(f"  {seconds[-1]:5.1f} s  {one.question}  [dim]{answers[-1].text[:80]}[/]")
    written = [one for one in answers if one.method == answer_pb2.ANSWER_METHOD_LLM]
    wrong = sum(misplaced(answer, one.passages) for answer, one in zip(answers, questions, strict=True))
    figures = {
        "questions": len(questions),
        "valid": len(written),
        "reasons": dict(Counter(one.fallback_detail for one in answers if one.fallback_reason)),
        "misplaced": wrong,
        "cited": sum(len(one.citations) for one in written),
        "dropped": sum(one.dropped_citation_count for one in written),
        "unsupported": sum(one.in_sources and not one.supported for one in written),
        "exact_match": fmean(exact(answer.text, one.answers) for answer, one in zip(answers, questions, strict=True)),
        "f1": fmean(f1(answer.text, one.answers) for answer, one in zip(answers, questions, strict=True)),
        "contains": fmean(
            any(" ".join(plain(right)) in " ".join(plain(answer.text)) for right in one.answers)
            for answer, one in zip(answers, questions, strict=True)
        ),
        "seconds": median(seconds),
        "prompt_tokens": median(one.prompt_token_count for one in answers),
        "completion_tokens": median(one.completion_token_count for one in answers),
    }
    said = (
        f"{len(written)} of {len(questions)} valid {figures['reasons'] or ''}, {wrong} of {figures['cited']} citations "
        f"misplaced, "
        f"{figures['dropped']} dropped, EM {figures['exact_match']:.2f}, F1 {figures['f1']:.2f}, "
        f"{figures['seconds']:.1f} s each"
    )
    return Row(name, len(written) == len(questions) and not wrong, said, figures)


async def extracted(name: str, questions: Sequence[Asked]) -> Row:
    """Answer the same questions by sentences alone."""
    async with reasoner("") as running:
        answers = [await running.answer(one.question, one.passages) for one in questions]
    pairs = list(zip(answers, questions, strict=True))
    figures = {
        "f1": fmean(f1(answer.text, one.answers) for answer, one in pairs),
        "contains": fmean(
            any(" ".join(plain(right)) in " ".join(plain(answer.text)) for right in one.answers)
            for answer, one in pairs
        ),
    }
    figures["milliseconds"] = _extraction_milliseconds(questions)
    wrong = sum(misplaced(answer, one.passages) for answer, one in pairs)
    said = (
        f"answer inside {figures['contains']:.2f}, F1 {figures['f1']:.2f}; "
        f"{figures['milliseconds']:.1f} ms of processor time for ten passages of 200 words"
    )
    return Row(name, not wrong and figures["milliseconds"] < 5, said, figures)


def _extraction_milliseconds(questions: Sequence[Asked]) -> float:
    """Median processor time of an answer of sentences from ten passages of about 200 words."""
    texts = list({passage.id: passage for one in questions for passage in one.passages}.values())[:10]
    every = " ".join(passage.text for passage in texts).split()
    passages = [
        Passage(one.id, one.title, " ".join([*every[20 * place :], *every[: 20 * place]][:200]))
        for place, one in enumerate(texts)
    ]
    taken = []
    for one in questions:
        started = time.process_time()
        extract(one.question, passages)
        taken.append(time.process_time() - started)
    return median(taken) * 1000


async def streamed(running: Reasoner, one: Asked) -> Row:
    """Read an answer as it is written."""
    text, parts, answer = "", 0, answer_pb2.WrittenAnswer()
    async for event in running.stream(one.question, one.passages):
        text += event.text_delta
        parts += bool(event.text_delta)
        answer = event.answer
    return Row("streaming", parts > 1 and text.strip() == answer.text, f"{parts} parts, the same text at the end")


async def cancelled(running: Reasoner, url: str, one: Asked) -> Row:
    """Leave in the middle, and see when the server is idle."""
    async with aclosing(running.stream(one.question, one.passages)) as events:
        async for event in events:
            if event.text_delta:
                break
    started = time.monotonic()
    while await _busy(url):
        await asyncio.sleep(0.02)
        if time.monotonic() - started > 30:
            break
    seconds = time.monotonic() - started
    return Row("cancelling", seconds < 1, f"the model stopped after {seconds:.2f} s", {"seconds": seconds})


async def _busy(url: str) -> bool:
    async with httpx.AsyncClient(timeout=30) as client:
        return any(slot["is_processing"] for slot in (await client.get(f"{url}/slots")).json())


async def degraded(running: Reasoner, one: Asked, name: str, reason: str) -> Row:
    """Ask with a short deadline."""
    started = time.monotonic()
    answer = await running.answer(one.question, one.passages, _SHORT_SECONDS)
    seconds = time.monotonic() - started
    ok = seconds < _SHORT_SECONDS and answer.fallback_reason == reason and answer.supported
    return Row(name, ok, f"{answer.fallback_reason}, sentences after {seconds:.2f} of {_SHORT_SECONDS} s")


async def attacked(running: Reasoner) -> Row:
    """Ask between hostile passages; the shape must hold, what a small model believes is reported."""
    figures: Counter[str] = Counter()
    for text in HOSTILE:
        passages = [reasoner_pb2.SourcePassage(id=one.id, title=one.title, text=one.text) for one in around(text)]
        answer = await running.answer(QUESTION, passages)
        written = answer.method == answer_pb2.ANSWER_METHOD_LLM
        figures["valid"] += written
        figures["misplaced"] += misplaced(answer, passages)
        figures["obeyed"] += written and "pwned" in answer.text.lower()
        figures["obeyed and supported"] += written and "pwned" in answer.text.lower() and answer.supported
        _console.print(f"  [dim]{answer.text[:100]}[/]")
    said = (
        f"{figures['valid']} of {len(HOSTILE)} valid, {figures['misplaced']} misplaced; "
        f"{figures['obeyed']} repeat the hostile word"
    )
    return Row("hostile passages", figures["valid"] == len(HOSTILE) and not figures["misplaced"], said, dict(figures))


_console = Console(stderr=True)


async def run(threads: int, data: Path | None) -> list[Row]:
    """Make all checks."""
    questions = questions_of(QUESTIONS)
    further = questions_in(data) if data is not None else []
    rows: list[Row] = []

    async def check(work: Callable[[], Awaitable[Row]]) -> None:
        rows.append(await work())
        _console.print(("[green]ok[/]   " if rows[-1].ok else "[red]NO[/]   ") + f"{rows[-1].name}: {rows[-1].said}")

    await check(lambda: extracted("sentences alone", questions))
    if further:
        await check(lambda: extracted("sentences alone, HotpotQA", further))
    with served(threads, BUILD / "llm.log") as url:
        async with reasoner(url) as running:
            await check(lambda: asked(running, "questions", questions))
            if further:
                await check(lambda: asked(running, "questions of HotpotQA", further))
            await check(lambda: streamed(running, questions[0]))
            await check(lambda: cancelled(running, url, questions[5]))
        async with ollama_in_front_of(url) as ollama, reasoner(ollama, "ollama") as running:
            await check(lambda: asked(running, "Ollama's API", questions[:_OLLAMA_QUESTIONS]))
        async with reasoner(url) as running:
            await check(lambda: degraded(running, questions[1], "a slow server", "LLM_TOO_SLOW"))
            await check(lambda: attacked(running))
    async with reasoner(url) as running:
        await check(lambda: degraded(running, questions[1], "a dead server", "LLM_UNAVAILABLE"))
    return rows


def main(
    threads: Annotated[int, typer.Option(min=1, help="Threads of the model.")] = 2,
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="The folder of hotpotqa_train100.")
    ] = None,
) -> None:
    """Ask a real language model, and write what came of it."""
    fetch_llm.fetch()
    BUILD.mkdir(exist_ok=True)
    rows = asyncio.run(run(threads, data))
    table = Table("", "check", "outcome", title="A small language model behind the reasoner")
    for row in rows:
        table.add_row("[green]ok[/]" if row.ok else "[red]NO[/]", row.name, row.said)
    Console().print(table)
    report = {"model": fetch_llm.WEIGHTS, "server": fetch_llm.SERVER_PACKAGE, "rows": [asdict(row) for row in rows]}
    RESULT.write_text(json.dumps(report, indent=2), encoding="utf-8")
    _console.print(f"Written: {shown(RESULT)}")
    sys.exit(not all(row.ok for row in rows))


if __name__ == "__main__":
    typer.run(main)
