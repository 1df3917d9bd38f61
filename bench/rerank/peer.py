"""One of the other libraries, in a process of its own: `python peer.py NAME MODEL_FOLDER`.

Runs in the library's own virtual environment, so it uses nothing of ours. A line of JSON in, {"query", "passages"}, is
answered by a line, {"ms", "scores"}, in the order of the passages.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sentence_transformers(folder: Path) -> Callable[[str, list[str]], list[float]]:
    """`CrossEncoder.predict`, fp32, in its default batches."""
    from sentence_transformers import CrossEncoder  # noqa: PLC0415  in its own environment alone

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)

    def scores(query: str, passages: list[str]) -> list[float]:
        found: Any = model.predict([(query, passage) for passage in passages], show_progress_bar=False)
        return [float(score) for score in found]

    return scores


def flashrank(folder: Path) -> Callable[[str, list[str]], list[float]]:
    """`Ranker.rerank`, which has an int8 graph of the same weights."""
    from flashrank import Ranker, RerankRequest  # type: ignore[import-not-found]  # noqa: PLC0415  as above

    ranker = Ranker(model_name=folder.name, cache_dir=str(folder.parent))

    def scores(query: str, passages: list[str]) -> list[float]:
        request = RerankRequest(query=query, passages=[{"id": n, "text": text} for n, text in enumerate(passages)])
        found = {each["id"]: float(each["score"]) for each in ranker.rerank(request)}
        return [found[number] for number in range(len(passages))]

    return scores


def main() -> None:
    """Answer until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    score = {"sentence_transformers": sentence_transformers, "flashrank": flashrank}[sys.argv[1]](Path(sys.argv[2]))
    score("warm up", ["word " * words for words in (1, 20, 60)])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        scores = score(asked["query"], asked["passages"])
        print(json.dumps({"ms": (time.perf_counter() - started) * 1000, "scores": scores}), file=answers, flush=True)


if __name__ == "__main__":
    main()
