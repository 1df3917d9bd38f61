from __future__ import annotations

from pathlib import Path

import pytest

from services.chassis.access.identity import NOBODY, Caller
from services.chassis.errors import StartupError
from services.gateway.quotas.book import NO_QUOTA, Quota, QuotaBook

DEFAULTS = Quota(100, 200, 64, 2**26, 0)
FILE = """
identities:
  "key:nightly": {calls_per_second: 20}
roles:
  writer: {bytes_in_flight_mib: 256, concurrent_calls: 10}
  reader: {concurrent_calls: 20}
  free: {concurrent_calls: 0}
tenants:
  acme: {calls_per_second: 500}
"""


def written(folder: Path, text: str = FILE) -> Path:
    file = folder / "quotas.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_caller_of_whom_nothing_is_said_has_the_defaults() -> None:
    assert QuotaBook(DEFAULTS).of_caller(Caller("key:a")) == DEFAULTS


def test_an_identity_wins_over_its_roles_and_they_win_over_the_defaults(tmp_path: Path) -> None:
    book = QuotaBook(DEFAULTS, written(tmp_path))
    quota = book.of_caller(Caller("key:nightly", frozenset({"writer"})))
    assert quota == Quota(20, 200, 10, 2**28, 0)


def test_of_several_roles_the_largest_limit_holds_and_none_is_larger_than_all(tmp_path: Path) -> None:
    book = QuotaBook(DEFAULTS, written(tmp_path))
    assert book.of_caller(Caller("key:a", frozenset({"writer", "reader"}))).concurrent_calls == 20
    assert book.of_caller(Caller("key:a", frozenset({"writer", "free"}))).concurrent_calls == 0


def test_a_tenant_has_the_limits_of_its_row_alone(tmp_path: Path) -> None:
    book = QuotaBook(DEFAULTS, written(tmp_path))
    assert book.of_tenant("acme") == Quota(calls_per_second=500)
    assert book.of_tenant("other") is NO_QUOTA


def test_without_access_control_there_are_no_limits_but_those_of_the_row_for_it(tmp_path: Path) -> None:
    assert QuotaBook(DEFAULTS).of_caller(NOBODY) is NO_QUOTA
    book = QuotaBook(DEFAULTS, written(tmp_path, "anonymous: {calls_per_second: 5}"))
    assert book.of_caller(NOBODY) == Quota(5, 200, 64, 2**26, 0)


def test_a_file_that_changes_is_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path)
    book = QuotaBook(DEFAULTS, file)
    assert not book.look()
    file.write_text("tenants: {acme: {calls_per_second: 7.0}}", encoding="utf-8")
    assert book.look()
    assert book.of_tenant("acme").calls_per_second == 7
    file.write_text("tenants: {acme: {calls: 7}}\n", encoding="utf-8")
    assert book.look()
    assert "tenants.acme.calls" in book.problem
    assert book.of_tenant("acme").calls_per_second == 7
    file.unlink()
    assert book.look()
    assert not book.look()
    assert book.of_tenant("acme").calls_per_second == 7
    written(tmp_path)
    assert book.look()
    assert not book.problem


@pytest.mark.parametrize("text", ["[1]", "identities: {a: {calls_per_second: -1}}", "a: {b", "callers: {}"])
def test_a_broken_file_keeps_a_gateway_from_starting(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartupError, match="QUOTA_FILE"):
        QuotaBook(DEFAULTS, written(tmp_path, text))


def test_the_shares_of_replicas_are_never_less_than_the_whole_together() -> None:
    share = Quota(100, 200, 64, 100, 10).shared_by(3)
    assert share.calls_per_second == pytest.approx(100 / 3)
    assert (share.burst, share.concurrent_calls, share.bytes_in_flight) == (67, 22, 34)
