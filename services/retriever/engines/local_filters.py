"""Filters of Qdrant's embedded engine, faster and within a deadline.

The engine looks at each condition of a filter again for every passage, which takes 80 microseconds each. Here a filter
becomes functions once. It is checked anew for every search of a batch; here it is checked once. Conditions that the
retriever does not make are left to the engine. It has no setting for this, so `tune` replaces a name in its module.

All calls come from the engine's one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client.http import models
from qdrant_client.local import local_collection
from qdrant_client.local.payload_filters import check_condition, check_range_interface, values_match

Payload = Mapping[str, Any]
Check = Callable[[Payload, Any], bool]
"""Tells if a payload and the id of its point fulfil a condition."""

_PAYLOADS_AT_ONCE = 256

_deadline = math.inf
_masks: dict[tuple[int, int], tuple[object, npt.NDArray[np.bool_]]] = {}


def tune() -> None:
    """Replace the engine's check of filters."""
    local_collection.calculate_payload_mask = payload_mask  # type: ignore[attr-defined]  # not for us to change


@contextmanager
def ending(deadline: float) -> Iterator[None]:
    """Raise TimeoutError in the checks of filters of this block once a moment on the monotonic clock has passed."""
    global _deadline  # noqa: PLW0603  the engine has no place for it
    _deadline = deadline
    _masks.clear()
    try:
        yield
    finally:
        _deadline = math.inf
        _masks.clear()


def payload_mask(
    payloads: Sequence[Payload],
    payload_filter: models.Filter | None,
    ids_inv: Sequence[Any],
    deleted_per_vector: Mapping[str, npt.NDArray[np.bool_]],
) -> npt.NDArray[np.bool_]:
    """Replace `calculate_payload_mask`: true for each payload that the filter keeps."""
    if payload_filter is None:
        return np.ones(len(payloads), dtype=bool)
    # Nothing is written during an operation that searches, and the filter is kept alive by the entry.
    key = id(payload_filter), id(payloads)
    if key not in _masks:
        check = _filter(payload_filter)
        mask = np.zeros(len(payloads), dtype=bool)
        for start in range(0, len(payloads), _PAYLOADS_AT_ONCE):
            if time.monotonic() >= _deadline:
                raise TimeoutError
            end = start + _PAYLOADS_AT_ONCE
            mask[start:end] = [
                check(payload, point) for payload, point in zip(payloads[start:end], ids_inv[start:end], strict=True)
            ]
        _masks[key] = payload_filter, mask
    return _masks[key][1]


def _filter(wanted: models.Filter) -> Check:
    """Compile a filter."""
    must, should, must_not = (
        list(map(_condition, _listed(part))) for part in (wanted.must, wanted.should, wanted.must_not)
    )
    if wanted.min_should is not None:
        must.append(_by_the_engine(models.Filter(min_should=wanted.min_should)))

    def check(payload: Payload, point: Any) -> bool:
        return (
            all(one(payload, point) for one in must)
            and not any(one(payload, point) for one in must_not)
            and (not should or any(one(payload, point) for one in should))
        )

    return check


def _condition(condition: models.Condition) -> Check:
    match condition:
        case models.Filter():
            return _filter(condition)
        case models.HasIdCondition(has_id=ids) if all(isinstance(one, str) for one in ids):
            points = frozenset(ids)
            return lambda _payload, point: point in points
        case models.IsEmptyCondition(is_empty=models.PayloadField(key=key)):
            values = _values_of(key)
            return lambda payload, _point: not values(payload)
        case models.FieldCondition(key=key) if (fits := _fitting(condition)) is not None:
            return _any(key, fits)
    return _by_the_engine(condition)


def _fitting(condition: models.FieldCondition) -> Callable[[Any], bool] | None:
    """Return the test of one value; None where it is for the engine."""
    fits: Callable[[Any], bool] | None = None
    match condition.match or condition.range:
        case models.MatchValue(value=wanted):
            fits = partial(values_match, wanted)
        case models.MatchAny(any=some):
            kinds, values = {type(one) for one in some}, frozenset(some)
            fits = lambda found: type(found) in kinds and found in values  # noqa: E731
        case models.Range() as bounds:
            fits = _within(bounds)
        case models.DatetimeRange() as bounds:
            fits = partial(check_range_interface, bounds)
    return fits


def _by_the_engine(condition: models.Condition) -> Check:
    return lambda payload, point: check_condition(condition, dict(payload), point, {})


def _any(key: str, fits: Callable[[Any], bool]) -> Check:
    """Check that one of the values of a field fits."""
    values = _values_of(key)

    def check(payload: Payload, _point: Any) -> bool:
        return any(fits(value) for value in values(payload))

    return check


def _within(bounds: models.Range) -> Callable[[Any], bool]:
    above = -math.inf if bounds.gt is None else bounds.gt
    least = -math.inf if bounds.gte is None else bounds.gte
    below = math.inf if bounds.lt is None else bounds.lt
    most = math.inf if bounds.lte is None else bounds.lte

    def check(found: Any) -> bool:
        # Booleans are no numbers here.
        return type(found) in (int, float) and above < found < below and least <= found <= most

    return check


def _values_of(key: str) -> Callable[[Payload], Sequence[Any]]:
    """Return a function for the values of a field: none where it is absent or null, several where it is a list."""
    path = key.split(".")

    def values(payload: Payload) -> Sequence[Any]:
        found: Any = payload
        for part in path:
            if not isinstance(found, dict):
                return ()
            found = found.get(part)
        if isinstance(found, list):
            return found
        return () if found is None else (found,)

    return values


def _listed(conditions: Any) -> list[models.Condition]:
    return [] if conditions is None else conditions if isinstance(conditions, list) else [conditions]
