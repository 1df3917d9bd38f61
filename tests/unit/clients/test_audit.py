"""`sluice audit`, on logs that the services write."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.chassis.audit.chain import Chain
from services.chassis.audit.trail import AuditTrail
from sluice_cli.main import app
from sluice_cli.operations.audit_chain import check

KEY = b"a key"


def log(folder: Path, lines: int = 20, key: bytes = KEY) -> Path:
    """Write a chained log, with a restart in its middle."""
    file = folder / "gateway.jsonl"
    for half in range(2):
        trail = AuditTrail(file, chain=Chain(key))
        for number in range(lines // 2):
            trail.add(
                {"time": 1.79e9 + number, "identity": f"key:{'ab'[number % 2]}", "object": {"n": f"{half}-{number}"}},
                change=True,
            )
        trail.close()
    return file


def verify(*files: Path, key: str = "a key") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", "verify", *map(str, files)], env={"AUDIT_KEY": key})
    return result.exit_code, result.stdout


@pytest.mark.parametrize("key", [b"", KEY])
def test_an_untouched_log_holds_over_a_restart(tmp_path: Path, key: bytes) -> None:
    checked = check([log(tmp_path, key=key)], key)
    assert (checked.lines, checked.first_number, checked.last_number) == (22, 1, 22)
    assert not checked.problems
    assert not checked.notes


def changed(lines: list[bytes]) -> list[bytes]:
    return [*lines[:8], lines[8].replace(b"key:", b"kez:"), *lines[9:]]


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "changed": (changed, "line 9 was changed"),
    "removed": (lambda lines: lines[:8] + lines[10:], "lines 9 to 10 are missing"),
    "removed at the start": (lambda lines: lines[1:], "lines before it are missing"),
    "removed at the end": (lambda lines: lines[:-2], "lines 21 to 22 are missing at the end"),
    "moved": (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "line 6 stands behind line 7"),
    "copied": (lambda lines: [*lines[:5], lines[4], *lines[5:]], "line 5 stands behind line 5"),
    "cut": (lambda lines: [*lines[:8], lines[8][:-20] + b"\n", *lines[9:]], "is cut"),
    "cut at the end": (lambda lines: [*lines[:-1], lines[-1][:-1]], "is cut"),
    "put in": (lambda lines: [*lines[:8], b'{"time":1}\n', *lines[8:]], "no line of a chained log"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    file = log(tmp_path)
    do, finding = DAMAGE[damage]
    file.write_bytes(b"".join(do(file.read_bytes().splitlines(keepends=True))))
    code, shown = verify(file)
    assert code == 1
    assert finding in shown


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    file = log(tmp_path)
    whole = file.read_bytes()
    draw = random.Random(7)
    for _ in range(100):
        place = draw.randrange(len(whole))
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << draw.randrange(8)
        file.write_bytes(spoilt)
        assert check([file], KEY).problems, place


def test_lines_cut_off_before_a_restart_are_found_after_it(tmp_path: Path) -> None:
    file = log(tmp_path)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-3]))
    AuditTrail(file, chain=Chain(KEY)).close()
    code, shown = verify(file)
    assert code == 1
    assert "lines 20 to 22 are missing before it" in shown


def test_without_the_key_nobody_can_make_a_line(tmp_path: Path) -> None:
    file = log(tmp_path)
    assert verify(file, key="another")[0] == 1
    file.unlink()
    forged = AuditTrail(file, chain=Chain(b"guessed"))
    forged.close()
    assert verify(file)[0] == 1


def test_files_of_a_log_that_was_rotated_hold_together_and_the_later_alone(tmp_path: Path) -> None:
    file, old = tmp_path / "gateway.jsonl", tmp_path / "gateway.jsonl.1"
    log(tmp_path)
    file.rename(old)
    log(tmp_path)
    assert verify(old, file)[0] == 0
    assert verify(file)[0] == 0
    old.write_bytes(b"".join(old.read_bytes().splitlines(keepends=True)[:-1]))
    code, shown = verify(old, file)
    assert code == 1
    assert "lines 22 to 22 are missing" in shown


def test_lines_are_shown_by_who_did_what_to_what(tmp_path: Path) -> None:
    file = tmp_path / "gateway.jsonl"
    trail = AuditTrail(file)
    for number, (identity, method, outcome) in enumerate(
        [("key:a", "Index", "OK"), ("key:b", "Delete", "OK"), ("key:a", "Delete", "PERMISSION_DENIED")]
    ):
        trail.add(
            {
                "time": 1.7e9 + number * 3600,
                "identity": identity,
                "method": f"sluice.gateway.v1.DocumentService/{method}Documents",
                "object": {"collection": f"papers-{number}\x1b[31m"},
                "outcome": outcome,
                "request_id": f"r-{number}",
            },
            change=True,
        )
    trail.close()

    def shown(*filters: str) -> list[int]:
        result = CliRunner().invoke(app, ["audit", "show", str(file), "--json", *filters])
        return [int(line["request_id"][2:]) for line in json.loads(result.stdout)]

    assert shown() == [0, 1, 2]
    assert shown("--identity", "key:a") == [0, 2]
    assert shown("--method", "delete", "--outcome", "ok") == [1]
    assert shown("--on", "papers-2\x1b[31m") == [2]
    assert shown("--request", "r-1") == [1]
    assert shown("--since", "2023-11-14T23:00") == [1, 2]
    assert shown("--since", "1m") == []
    assert shown("--limit", "1") == [2]
    text = CliRunner().invoke(app, ["audit", "show", str(file)]).stdout
    assert "DeleteDocuments" in text
    assert "\x1b" not in text


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["audit", "show", str(log(tmp_path)), "--since", "soon"])
    assert result.exit_code == 2
