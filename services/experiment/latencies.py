"""The buckets in which gateways count latencies and the control plane reads percentiles.

Both must mean the same by bucket number i, so the edges stand here once and never change; another set of edges would
need another field. Each is a tenth above the one before: a percentile is known to within five percent.
"""

from __future__ import annotations

from bisect import bisect_left

EDGES = tuple(round(0.001 * 1.1**power, 9) for power in range(110))
"""Upper edges in seconds, 1 ms to 32 s. Bucket i holds what is above edge i - 1 and up to edge i; one more is open."""


def latency_bucket(seconds: float) -> int:
    """The number of the bucket of a latency, 0 to `len(EDGES)`."""
    return bisect_left(EDGES, seconds)
