"""Documents of the caller: the conditions of its policies, for what they hold that has no filter.

Filters have these conditions already when a servicer sees them (`services.chassis.access.gate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.chassis.access.gate import conditions_of
from services.chassis.errors import InvalidArgument, NotFound
from sluice.gateway.v1 import documents_pb2
from sluice.retriever.v1 import retriever_pb2


def owners() -> list[retriever_pb2.Owner]:
    """The metadata of documents that the caller may see and change; none where all are."""
    return [retriever_pb2.Owner(field=one.field, value=one.value) for one in conditions_of()]


def claim(documents: Sequence[documents_pb2.Document]) -> None:
    """Mark documents as the caller's. Raises InvalidArgument for one that is marked as another's."""
    for place, document in enumerate(documents):
        for one in conditions_of():
            if one.field not in document.metadata:
                document.metadata[one.field].string_value = one.value
            elif document.metadata[one.field].string_value != one.value:
                raise InvalidArgument(
                    f"documents[{place}].metadata.{one.field}",
                    f"must be {one.value!r} for this caller; leave it out, and the gateway sets it",
                )


@contextmanager
def unnamed_fields() -> Iterator[None]:
    """Keep names of fields, which others' documents have, out of errors about filters."""
    try:
        yield
    except InvalidArgument as error:
        conditions = conditions_of()
        if not conditions or error.reason != "UNKNOWN_FIELD":
            raise
        if any(repr(one.field) in error.problem.partition(" is not")[0] for one in conditions):
            raise NotFound("this collection has no documents of this caller yet", reason="NOTHING_OWN") from None
        problem = "is not the name of a field that can be used here; send one of your documents' fields"
        raise InvalidArgument(error.field, problem, reason=error.reason) from None
