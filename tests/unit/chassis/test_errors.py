from __future__ import annotations

import inspect

import grpc
import pytest

from services.chassis import errors
from services.chassis.errors import KINDS, Blame, InvalidArgument, Kind, SluiceError, kind_of, kind_of_code
from services.chassis.status import code_of


def test_every_error_has_exactly_one_row() -> None:
    classes = {
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, SluiceError) and each is not SluiceError
    }
    assert {kind.error for kind in KINDS} == classes
    assert len({kind.code for kind in KINDS}) == len(KINDS) == len(classes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_code_is_canonical_and_leads_back_to_its_row(kind: Kind) -> None:
    assert kind_of_code(grpc.StatusCode[kind.code].name) is kind


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.blame is Blame.CALLER], ids=lambda kind: kind.code)
def test_a_mistake_of_the_caller_blames_neither_the_feature_nor_a_dependency(kind: Kind) -> None:
    assert (kind.outcome, kind.evidence, kind.trips_breaker, kind.retryable) == ("invalid", False, False, False)


def test_a_call_that_an_old_replica_does_not_know_is_a_failure_in_metrics_and_in_evidence() -> None:
    kind = kind_of(errors.Unimplemented("an old release"))
    assert (kind.outcome, kind.evidence) == ("failed", True)


def test_exceptions_that_are_not_ours_are_classified_too() -> None:
    class OfAStage(errors.NotFound):
        pass

    assert kind_of(TimeoutError()).error is errors.DeadlineExceeded
    assert kind_of(RuntimeError()).error is errors.Internal
    assert kind_of(OfAStage("gone")).error is errors.NotFound
    assert kind_of_code("DATA_LOSS").error is errors.Internal


def test_an_invalid_argument_keeps_its_field_and_its_problem_apart() -> None:
    error = InvalidArgument("documents[3].id", "is empty")
    assert (error.field, error.problem, str(error)) == ("documents[3].id", "is empty", "documents[3].id: is empty")
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
