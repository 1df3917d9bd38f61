"""Checks of the chain of an audit log, which services/chassis/audit/chain.py describes."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LINE = re.compile(rb'(\{"number":(\d{1,18}),.*),"chain":"([0-9a-f]{64})"\}\n', re.DOTALL)
_BEGIN = re.compile(rb'"event":"begin","previous":"([0-9a-f]{64})"')
_FIRST = "0" * 64
MOST_PROBLEMS = 100


@dataclass(slots=True)
class Checked:
    """The result of a check."""

    lines: int = 0
    first_number: int = 0
    last_number: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(files: Sequence[Path], key: bytes) -> Checked:
    """Check files of one log, the oldest first. Raises OSError for a file that cannot be read."""
    checked = Checked()
    # Before the lines: a stage may write meanwhile, the head last.
    head = _head_of(files[-1])
    digest = ""
    for file in files:
        digest = _check_file(file, key, checked, digest)
    if head is None:
        checked.notes.append(f"{files[-1].name}.head is missing: lines that were cut off at the end cannot be noticed")
    elif head[0] > checked.last_number:
        _report(checked, files[-1], 0, f"lines {checked.last_number + 1} to {head[0]} are missing at the end")
    elif head[0] == checked.last_number and head[1] != digest:
        _report(checked, files[-1], 0, "the last line is not the one that was written")
    return checked


def _check_file(file: Path, key: bytes, checked: Checked, digest: str) -> str:
    """Check the lines of one file; return the digest of the last."""
    with file.open("rb") as opened:
        for place, line in enumerate(opened, start=1):
            checked.lines += 1
            found = _LINE.fullmatch(line)
            if found is None:
                _report(checked, file, place, "is cut, or no line of a chained log")
                continue
            body, number, own = found[1] + b"}", int(found[2]), found[3].decode()
            if not digest:
                begin = _BEGIN.search(body)
                checked.first_number = number
                digest = begin[1].decode() if begin else _FIRST
                if begin is None or (digest == _FIRST and number != 1):
                    _report(checked, file, place, "is not the first line of a log: lines before it are missing")
                elif number > 1:
                    checked.notes.append(f"the log goes on from line {number - 1} of an older file")
            elif number != checked.last_number + 1:
                _report(checked, file, place, _gap(checked.last_number, number))
                digest = ""
            if digest and _digest(key, digest.encode() + body) != own:
                _report(checked, file, place, f"line {number} was changed, or the key is another")
            digest, checked.last_number = own, number
    return digest


def _gap(last: int, number: int) -> str:
    if number > last + 1:
        return f"lines {last + 1} to {number - 1} are missing before it"
    return f"line {number} stands behind line {last}: it was moved or copied"


def _digest(key: bytes, message: bytes) -> str:
    return hmac.digest(key, message, "sha256").hex() if key else hashlib.sha256(message).hexdigest()


def _head_of(log: Path) -> tuple[int, str] | None:
    try:
        found = json.loads(log.with_name(f"{log.name}.head").read_text(encoding="utf-8"))
        return int(found["number"]), str(found["chain"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return 10**18, ""


def _report(checked: Checked, file: Path, place: int, problem: str) -> None:
    if len(checked.problems) < MOST_PROBLEMS:
        checked.problems.append(f"{file.name}:{place}: {problem}" if place else f"{file.name}: {problem}")
