"""The questions that panels ask Prometheus, always of the chosen namespaces."""

from __future__ import annotations

HERE = 'namespace=~"$namespace"'


def rate(series: str, only: str = "", *, by: str = "") -> str:
    """Events a second of a counter; `only` has more label matchers."""
    return _sum(f"rate({series}{{{_matchers(only)}}}[$__rate_interval])", by)


def quantile(share: float, histogram: str, only: str = "", *, by: str = "") -> str:
    """The value that this share of a histogram's observations stay below."""
    kept = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', only, by=kept)})"


def ratio(part: str, of: str) -> str:
    """How much of one rate another is; a part that has no series yet is none of it."""
    return f"({part} or 0 * {of}) / {of}"


def each(part: str, of: str) -> str:
    """How much of one rate falls to one of another, series by series."""
    return f"{part} / {of}"


def mean(histogram: str, only: str = "", *, by: str = "") -> str:
    """The mean of a histogram's observations."""
    return each(rate(f"{histogram}_sum", only, by=by), rate(f"{histogram}_count", only, by=by))


def worst(gauge: str, only: str = "", *, by: str = "") -> str:
    """The largest value of a gauge."""
    return _aggregate("max", f"{gauge}{{{_matchers(only)}}}", by)


def _sum(of: str, by: str) -> str:
    return _aggregate("sum", of, by)


def _aggregate(how: str, of: str, by: str) -> str:
    return f"{how} by ({by}) ({of})" if by else f"{how}({of})"


def _matchers(only: str) -> str:
    return f"{HERE}, {only}" if only else HERE
