"""A stage without metrics, for comparison: Python imports this at its start where PYTHONPATH names this folder."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram


def _nothing(*_arguments: Any, **_keywords: Any) -> None:
    pass


for _kind, _names in ((Counter, ("inc",)), (Gauge, ("inc", "dec", "set", "set_function")), (Histogram, ("observe",))):
    for _name in _names:
        setattr(_kind, _name, _nothing)
