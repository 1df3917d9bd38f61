from __future__ import annotations

import grpc
import pytest

from sluice_client import Blame, SluiceError


def failed(code: grpc.StatusCode, retry_after: float | None = None) -> SluiceError:
    return SluiceError(code, code.name, "no", retry_after=retry_after)


@pytest.mark.parametrize(
    ("code", "blame"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Blame.CALLER),
        (grpc.StatusCode.PERMISSION_DENIED, Blame.CALLER),
        (grpc.StatusCode.FAILED_PRECONDITION, Blame.NOBODY),
        (grpc.StatusCode.UNAVAILABLE, Blame.SERVICE),
        (grpc.StatusCode.UNIMPLEMENTED, Blame.SERVICE),
        (grpc.StatusCode.DATA_LOSS, Blame.SERVICE),
    ],
)
def test_a_code_says_who_is_to_blame(code: grpc.StatusCode, blame: Blame) -> None:
    assert failed(code).blame is blame


def test_a_call_may_be_sent_again_where_the_server_was_away_or_late_or_says_when_to_come_back() -> None:
    assert failed(grpc.StatusCode.UNAVAILABLE).retryable
    assert failed(grpc.StatusCode.DEADLINE_EXCEEDED).retryable
    assert failed(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=1).retryable
    assert not failed(grpc.StatusCode.RESOURCE_EXHAUSTED).retryable
    assert not failed(grpc.StatusCode.INTERNAL).retryable
    assert not failed(grpc.StatusCode.PERMISSION_DENIED).retryable
