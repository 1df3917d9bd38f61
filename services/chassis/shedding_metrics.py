"""The series of the stages that limit how many calls are under way (`services.chassis.shedding`)."""

from __future__ import annotations

from prometheus_client import Gauge

concurrency_limit = Gauge("sluice_concurrency_limit", "Calls that may be under way at once, just now.")
