"""`python -m bench.judge`: agreement of a language model with people's judgments; build/judge.json.

A real small model behind llama.cpp's server judges passages of a BEIR folder: for each of some questions one that
people judged relevant, the best one by words that they did not, and one that answers another question. The last two are
taken for not relevant; a few of them may be, as nobody read them all. It grades each alone, and says of two which is
better, in both orders. What comes of it is reported, whatever it is.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from bench.quality.beir import Dataset, load
from bench.quality.simulate import FirstStage
from bench.rerank.measuring import processor
from deploy.local.llm import served
from deploy.local.paths import BUILD, ROOT, shown
from services.retriever.lexical import Bm25
from sluice_cli.chat import Budget, ChatModel
from sluice_cli.evaluation.judge import Judged, Method, Task, Verdicts, judge, judged, made_by
from sluice_cli.evaluation.lists import agreement_view, pairs_view
from sluice_judgments.agreement import agreement, pairs_of
from sluice_judgments.judging import HIGHEST_GRADE, Passage
from sluice_judgments.judgments import Judgments
from sluice_statistics.intervals import rate
from tools import fetch_llm

RESULT = BUILD / "judge.json"
FOLDER = BUILD / "judge"
DATA = ROOT.parent / "shared" / "data" / "ir" / "scifact"
RELEVANT = 2
"""The least grade of the model that is taken for relevant, as its prompt says."""
_SEED = 5
_TOKENS = 2_000_000

_console = Console(stderr=True)


@dataclass(frozen=True)
class Judging:
    """Questions and passages, judged by people, and the kinds of passages that they did not call relevant."""

    people: Judgments
    alike: Mapping[str, str]
    """The best passage by words, by query."""
    other: Mapping[str, str]
    """The passage that answers another question, by query."""
    passages: Mapping[str, Passage]


def judging(dataset: Dataset, questions: int) -> Judging:
    """Choose questions and passages, the same in every run."""
    chance = random.Random(_SEED)
    chosen = chance.sample(sorted(dataset.queries), min(questions, len(dataset.queries)))
    documents = {one.id: Passage(one.id, one.title, one.text) for one in dataset.documents}
    names = list(documents)
    words = FirstStage([(one.title, one.text) for one in dataset.documents], np.zeros((len(names), 1), np.float32))
    bm25 = Bm25(k1=1.2, b=0.75, average_length=words.average_length)
    people: dict[str, dict[str, int]] = {}
    alike, other = {}, {}
    for query in chosen:
        grades = dataset.qrels[query]
        relevant = min(name for name, grade in grades.items() if grade > 0)
        found = [names[place] for place, _ in words.lexical(dataset.queries[query], bm25, 10)]
        alike[query] = next(name for name in found if name not in grades)
        elsewhere = chance.choice([one for one in chosen if one != query])
        candidates = [name for name in dataset.qrels[elsewhere] if name not in grades and name != alike[query]]
        other[query] = chance.choice(candidates) if candidates else chance.choice(names)
        people[query] = {relevant: 1, alike[query]: 0, other[query]: 0}
    return Judging(Judgments(people, {query: dataset.queries[query] for query in chosen}), alike, other, documents)


def tasks_of(chosen: Judging, method: Method) -> list[Task]:
    """List tasks question by question, so that any part of them is a fair sample."""
    tasks = []
    chance = random.Random(_SEED)
    for query, grades in chosen.people.grades.items():
        passages = [chosen.passages[name] for name in grades]
        chance.shuffle(passages)
        if method == "pointwise":
            tasks += [Task(query, chosen.people.texts[query], (passage,)) for passage in passages]
            continue
        (relevant,) = [one for one in passages if grades[one.id]]
        for one in passages:
            if one is not relevant:
                pair = (relevant, one) if chance.random() < 0.5 else (one, relevant)
                tasks.append(Task(query, chosen.people.texts[query], pair))
    return tasks


def asked(url: str, chosen: Judging, method: Method, seconds: float, passage_tokens: int) -> tuple[Judged, int, float]:
    """Judge for so long; return the verdicts, the tokens and the seconds it took."""
    model = ChatModel(fetch_llm.NAME, url, "", Budget(_TOKENS), remedy="read build/judge/llm.log")
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / f"{method}.verdicts"
    file.unlink(missing_ok=True)
    verdicts = Verdicts(file, made_by(fetch_llm.NAME, method, passage_tokens))
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    started = time.monotonic()
    try:
        judge(tasks_of(chosen, method), model, verdicts, stop, passage_tokens=passage_tokens, at_once=1)
    finally:
        timer.cancel()
        verdicts.close()
    return judged(verdicts, chosen.people.texts), model.budget.tokens, time.monotonic() - started


def of_kind(chosen: Judging, kind: Mapping[str, str]) -> Judgments:
    """Judgments of people on the relevant passages, and on those of one kind."""
    return Judgments(
        {
            query: {name: grade for name, grade in grades.items() if grade or name == kind[query]}
            for query, grades in chosen.people.grades.items()
        }
    )


def pointwise_figures(found: Judged, chosen: Judging) -> dict[str, Any]:
    """Agreement of grades with people."""
    by_threshold = {}
    for least in range(1, HIGHEST_GRADE + 1):
        compared = agreement(chosen.people, found.grades, relevant=(1, least))
        by_threshold[least] = {"kappa": _figure(compared.kappa), "equal": _figure(compared.equal)}
    whole = agreement(chosen.people, found.grades, relevant=(1, RELEVANT))
    _console.print(agreement_view(whole))
    grades = [grade for _, _, grade in found.grades]
    return {
        "verdicts": len(found.grades),
        "useless": found.useless,
        "grades": {grade: grades.count(grade) for grade in range(HIGHEST_GRADE + 1)},
        "relevant_from": RELEVANT,
        "agreement": asdict(whole),
        "by_threshold": by_threshold,
        "pairs_alike": asdict(agreement(of_kind(chosen, chosen.alike), found.grades).pairs),
        "pairs_other": asdict(agreement(of_kind(chosen, chosen.other), found.grades).pairs),
    }


def pairwise_figures(found: Judged, chosen: Judging) -> dict[str, Any]:
    """Agreement of verdicts on pairs with people."""
    asked_pairs = len(found.preferences) + found.contrary + found.useless
    everything = pairs_of(chosen.people, found.preferences)
    _console.print(pairs_view(everything))
    return {
        "pairs": asked_pairs,
        "useless": found.useless,
        "contrary": found.contrary,
        "contrary_share": _figure(rate(found.contrary, asked_pairs)),
        "agreement": asdict(everything),
        "alike": asdict(pairs_of(of_kind(chosen, chosen.alike), found.preferences)),
        "other": asdict(pairs_of(of_kind(chosen, chosen.other), found.preferences)),
    }


def _figure(found: Any) -> dict[str, float] | None:
    return None if found is None else asdict(found)


def main(
    data: Annotated[Path, typer.Argument(metavar="FOLDER", help="A collection in BEIR's layout.")] = DATA,
    questions: Annotated[int, typer.Option(metavar="N", min=2, help="Questions.")] = 60,
    seconds: Annotated[float, typer.Option(metavar="S", min=10, help="Most time, of both methods together.")] = 480,
    passage_tokens: Annotated[int, typer.Option(metavar="N", min=16, help="Most tokens of a passage.")] = 300,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads of the model.")] = 2,
) -> None:
    """Let a small language model judge, and write how far it agrees with people."""
    fetch_llm.fetch()
    chosen = judging(load(data), questions)
    report: dict[str, Any] = {
        "collection": data.resolve().name,
        "model": fetch_llm.WEIGHTS,
        "server": fetch_llm.SERVER_PACKAGE,
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "questions": len(chosen.people.grades),
        "passage_tokens": passage_tokens,
    }
    methods: Sequence[Method] = ("pointwise", "pairwise")
    with served(threads, FOLDER / "llm.log") as url:
        for method in methods:
            _console.rule(method)
            found, tokens, took = asked(url, chosen, method, seconds / len(methods), passage_tokens)
            figures = (pointwise_figures if method == "pointwise" else pairwise_figures)(found, chosen)
            report[method] = {**figures, "tokens": tokens, "seconds": round(took, 1)}
            RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _console.print(f"Written: {shown(RESULT)}")


if __name__ == "__main__":
    typer.run(main)
