"""One scheduler for every model stage: concurrent calls in, short well-filled batches out.

    submit ──▶ cache ──▶ admission ──▶ lane ──▶ worker thread ──▶ compute ──▶ one wake-up of the event loop
               or the same key in flight       (fair between callers, indexed by length)

There is no timer. Whatever waits when a worker becomes free is its next batch, and the worker picks that batch by
itself, so a model with work waiting never idles. Nothing in here knows of texts, models or grpc.

    contract.py   what callers give and are told: works, lanes, limits, the observer
    waiting.py    the queue of one lane: whose turn it is, and which rows go together
    scheduler.py  calls, deadlines, sharing, admission, the worker threads and their failures
"""

from services.inference.scheduling.contract import (
    BatchReport,
    Compute,
    DropReason,
    Lane,
    RefusalReason,
    SchedulerLimits,
    SchedulerObserver,
    Work,
)
from services.inference.scheduling.scheduler import Scheduler
from services.inference.scheduling.waiting import Submission

__all__ = [
    "BatchReport",
    "Compute",
    "DropReason",
    "Lane",
    "RefusalReason",
    "Scheduler",
    "SchedulerLimits",
    "SchedulerObserver",
    "Submission",
    "Work",
]
