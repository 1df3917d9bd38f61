"""PromQL of panels, for the chosen namespaces."""

from __future__ import annotations

HERE = 'namespace=~"$namespace"'


def rate(series: str, only: str = "", *, by: str = "") -> str:
    """Return the events a second of a counter; `only` has more label matchers."""
    return _sum(f"rate({series}{{{_matchers(only)}}}[$__rate_interval])", by)


def quantile(share: float, histogram: str, only: str = "", *, by: str = "") -> str:
    """Return the quantile of a histogram."""
    kept = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', only, by=kept)})"


def ratio(part: str, of: str) -> str:
    """Return the share of one rate in another; 0 for a part without series."""
    return f"({part} or 0 * {of}) / {of}"


def each(part: str, of: str) -> str:
    """Return the ratio of two rates, series by series."""
    return f"{part} / {of}"


def mean(histogram: str, only: str = "", *, by: str = "") -> str:
    """Return the mean of a histogram's observations."""
    return each(rate(f"{histogram}_sum", only, by=by), rate(f"{histogram}_count", only, by=by))


def worst(gauge: str, only: str = "", *, by: str = "") -> str:
    """Return the largest value of a gauge."""
    return _aggregate("max", f"{gauge}{{{_matchers(only)}}}", by)


def _sum(of: str, by: str) -> str:
    return _aggregate("sum", of, by)


def _aggregate(how: str, of: str, by: str) -> str:
    return f"{how} by ({by}) ({of})" if by else f"{how}({of})"


def _matchers(only: str) -> str:
    return f"{HERE}, {only}" if only else HERE
