"""Files of results, as `sluice experiment attach` takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sluice_cli.calls import Problem, plain, stderr
from sluice_client import LadderStep
from sluice_statistics.intervals import Estimate

_MOST_BYTES = 256 * 1024  # of the result, at the rollout service


def write_evidence(path: Path, step: LadderStep, summary: str, result: Mapping[str, Any]) -> None:
    """Write the result of a step. It holds ids of queries and not their texts, which may be those of users."""
    size = len(json.dumps(result))
    if size > _MOST_BYTES:
        raise Problem(
            f"the result has {size // 1024:,} KiB, and an experiment takes {_MOST_BYTES // 1024}",
            "compare fewer configurations at once, or list fewer questions with --show",
        )
    content = {"step": step.value, "time": datetime.now(UTC).isoformat(), "summary": summary, "result": result}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror}", "name another file") from None
    stderr.print(f"{plain(str(path))} written; `sluice experiment attach NAME {plain(str(path))}` keeps it")


def interval_words(found: Estimate, *, signed: bool = False, digits: int = 3) -> str:
    """Write a figure with its interval."""
    sign = "+" if signed else ""
    return f"{found.value:{sign}.{digits}f} ({found.low:{sign}.{digits}f} to {found.high:{sign}.{digits}f})"
