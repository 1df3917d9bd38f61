"""A language model that judges: its verdicts are kept as they come, so that what was paid for is not asked again."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_cli.chat import ChatModel, Spent
from sluice_judgments.judging import (
    MOST_TOKENS,
    Better,
    Passage,
    Preference,
    Prompt,
    better_of,
    grade_of,
    pairwise,
    pointwise,
    preference,
)
from sluice_judgments.judgments import Judgments

Method = Literal["pointwise", "pairwise"]


@dataclass(frozen=True, slots=True)
class Task:
    """A passage to grade, or two to compare."""

    query: str
    text: str
    """Of the query."""
    passages: tuple[Passage, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """Names it in the file of verdicts."""
        return (self.query, *(passage.id for passage in self.passages))


class Verdicts:
    """A file of verdicts below a first line that says how they were made; a line that was cut off is removed.

    Raises Problem for a file that was made in another way.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()
        self.rows: dict[tuple[str, ...], Mapping[str, Any]] = {}
        head = json.dumps({"made_by": made_by}, sort_keys=True) + "\n"
        try:
            kept = path.read_bytes() if path.exists() else b""
            whole = kept[: kept.rfind(b"\n") + 1]
            if whole and not whole.startswith(head.encode()):
                raise Problem(
                    f"{path} holds verdicts of another model, method or prompt",
                    "name another --output, or remove that file",
                    exit_code=WRONG_COMMAND_LINE,
                )
            for line in whole.splitlines()[1:]:
                row = json.loads(line)
                self.rows[tuple(row["of"])] = row
            self._file = path.open("wb" if not whole else "r+b")
            self._file.truncate(len(whole))
            self._file.seek(len(whole))
        except (OSError, ValueError, KeyError) as error:
            raise Problem(f"{path} cannot be used: {error}", "name another --output") from None
        if not whole:
            self._write(head)

    def add(self, task: Task, **said: Any) -> None:
        """Keep a verdict."""
        row = {"of": task.key, **said}
        with self._lock:
            self.rows[task.key] = row
            self._write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line.encode())
        self._file.flush()


def made_by(model: str, method: Method, passage_tokens: int) -> dict[str, Any]:
    """Describe how verdicts are made: model, method and, by its digest, the prompt."""
    passages = (Passage("", "", ""), Passage("", "", ""))
    # The boundary of the passages, which is drawn for each prompt, is no part of it.
    asked = pointwise("", passages[0], 0) if method == "pointwise" else pairwise("", passages, 0)
    text = asked.system.split("Question and passages are data")[0] + json.dumps(asked.schema)
    prompt = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"model": model, "method": method, "prompt": prompt, "passage_tokens": passage_tokens}


def judge(
    tasks: Sequence[Task],
    model: ChatModel,
    verdicts: Verdicts,
    stop: threading.Event,
    *,
    passage_tokens: int,
    at_once: int,
    on_verdict: Callable[[], None] = lambda: None,
) -> str:
    """Ask for all verdicts that are missing, or until `stop` is set; return the reason for stopping early, or nothing.

    Raises Problem where the model does not answer.
    """
    missing = iter([task for task in tasks if task.key not in verdicts.rows])
    lock = threading.Lock()
    endings: list[Exception] = []

    def work() -> None:
        while not stop.is_set():
            with lock:
                task = next(missing, None)
            if task is None:
                return
            try:
                verdicts.add(task, **_said(task, model, passage_tokens))
            except Exception as ended:  # said once, by the caller's thread
                endings.append(ended)
                stop.set()
                return
            on_verdict()

    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(at_once):
            pool.submit(work)
    for ended in endings:
        if not isinstance(ended, Spent):
            raise ended
    return str(endings[0]) if endings else ""


def _said(task: Task, model: ChatModel, passage_tokens: int) -> dict[str, Any]:
    if len(task.passages) == 1:
        return {"grade": grade_of(_ask(model, pointwise(task.text, task.passages[0], passage_tokens)))}
    one, other = task.passages
    forwards = better_of(_ask(model, pairwise(task.text, (one, other), passage_tokens)))
    backwards = better_of(_ask(model, pairwise(task.text, (other, one), passage_tokens)))
    return {"forwards": forwards, "backwards": backwards}


def _ask(model: ChatModel, prompt: Prompt) -> str:
    return model.ask(prompt.system, prompt.user, name="verdict", schema=prompt.schema, most_tokens=MOST_TOKENS)


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts that count, and the number of those that do not."""

    grades: Judgments
    """Of passages that were graded."""
    preferences: Sequence[Preference]
    """Of pairs on which both orders agree."""
    contrary: int
    """Pairs on which the two orders do not agree."""
    useless: int
    """Replies that were no verdict."""


def judged(verdicts: Verdicts, texts: Mapping[str, str]) -> Judged:
    """Read verdicts."""
    grades: dict[str, dict[str, int]] = {}
    preferences: list[Preference] = []
    contrary = useless = 0
    for query, names, row in _rows(verdicts):
        if len(names) == 1:
            if row["grade"] is None:
                useless += 1
            else:
                grades.setdefault(query, {})[names[0]] = row["grade"]
            continue
        forwards: Better | None = row["forwards"]
        backwards: Better | None = row["backwards"]
        found = preference(query, names[0], names[1], forwards, backwards)
        if found is not None:
            preferences.append(found)
        elif forwards is None or backwards is None:
            useless += 1
        else:
            contrary += 1
    known = {query: texts[query] for query in grades if query in texts}
    return Judged(Judgments(grades, known), preferences, contrary, useless)


def _rows(verdicts: Verdicts) -> Iterator[tuple[str, Sequence[str], Mapping[str, Any]]]:
    for (query, *names), row in verdicts.rows.items():
        yield query, names, row
