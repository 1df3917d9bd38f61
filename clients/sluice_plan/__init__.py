"""Capacity of a stack, by a simulation from measured times. All times are milliseconds; no I/O, no clock.

measurements.py  what was measured, and its file
simulation.py    searches played through, one event after the other
stack.py         a search as works of the stages: percentiles, utilisation, capacity
sizing.py        replicas that hold a target, and what features cost
"""

from sluice_plan.measurements import (
    FEATURES,
    MODEL_STAGES,
    STAGES,
    Feature,
    Measurements,
    Stage,
    UnfitMeasurementsError,
)
from sluice_plan.sizing import CannotHoldError, Plan, size
from sluice_plan.stack import Prediction, Search, Stack

__all__ = [
    "FEATURES",
    "MODEL_STAGES",
    "STAGES",
    "CannotHoldError",
    "Feature",
    "Measurements",
    "Plan",
    "Prediction",
    "Search",
    "Stack",
    "Stage",
    "UnfitMeasurementsError",
    "size",
]
