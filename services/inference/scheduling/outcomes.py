"""Results of a batch, or the failures of single rows, and a cache of results."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic

from services.inference.scheduling.contract import Compute, PayloadT, ResultT


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that cannot be computed."""

    cause: Exception


def outcomes_of(compute: Compute[PayloadT, ResultT], payloads: Sequence[PayloadT]) -> list[ResultT | Failure]:
    """Compute a batch; if that fails, compute each half alone, until only the rows at fault have failed."""
    try:
        results = compute(payloads)
        if len(results) != len(payloads):
            raise RuntimeError(f"compute returned {len(results)} results for {len(payloads)} rows")
        return list(results)
    except MemoryError:
        raise
    except Exception as error:
        if len(payloads) == 1:
            return [Failure(error)]
    half = len(payloads) // 2
    return outcomes_of(compute, payloads[:half]) + outcomes_of(compute, payloads[half:])


class ResultCache(Generic[ResultT]):
    """The results that were used last, by key."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: OrderedDict[Hashable, ResultT] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._results

    def __getitem__(self, key: Hashable) -> ResultT:
        self._results.move_to_end(key)
        return self._results[key]

    def add(self, key: Hashable, result: ResultT) -> None:
        """Keep a result, and forget the one that was not used for longest if there is no room."""
        self._results[key] = result
        if len(self._results) > self._size:
            self._results.popitem(last=False)
