"""What a stack can do, from what it was measured to take: queues, percentiles, replicas. Pure arithmetic.

measurements.py   what was measured, and its file
times.py          distributions of durations
queues.py         how long one waits: for servers, and for a model that batches
    simulation.py     searches played through, where stages share one machine
network.py        searches on their way through all stages
sizing.py         replicas, aims of the autoscaler, what features cost
"""

from sluice_plan.measurements import FEATURES, STAGES, Measurements, UnfitMeasurementsError
from sluice_plan.network import Layout, Network, Prediction, Search
from sluice_plan.sizing import Plan, Target, UnreachableError, size

__all__ = [
    "FEATURES",
    "STAGES",
    "Layout",
    "Measurements",
    "Network",
    "Plan",
    "Prediction",
    "Search",
    "Target",
    "UnfitMeasurementsError",
    "UnreachableError",
    "size",
]
