"""Latency buckets: gateways count in them, and the control plane reads percentiles from them.

Both must mean the same by a bucket's number, so the edges never change; other edges would need another field. Each
edge is a tenth above the one before, so a percentile is known to within five percent.
"""

from __future__ import annotations

from bisect import bisect_left

EDGES = tuple(round(0.001 * 1.1**power, 9) for power in range(110))
"""Upper edges in seconds, 1 ms to 32 s, each part of its bucket. The last bucket, above all edges, is open."""


def latency_bucket(seconds: float) -> int:
    """The number of the bucket of a latency, 0 to `len(EDGES)`."""
    return bisect_left(EDGES, seconds)
