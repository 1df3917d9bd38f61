"""One scheduler for every model stage: concurrent calls in, short well-filled batches out.

    submit ──▶ cache ──▶ admission ──▶ lane ──▶ worker thread ──▶ compute ──▶ one wake-up of the event loop
               or the same key in flight       (fair between callers, indexed by length)

There is no timer. When a worker becomes free, the queued work is its next batch, and the worker picks that batch
itself, so a model with work waiting never idles. Nothing in here knows of texts, models or grpc.

    contract.py   types at the boundary: works, lanes, limits, the observer
    waiting.py    the queue of one lane: turns of callers, and rows that go together
    sharing.py    works in flight, each shared by all calls that want it
    rate.py       the measured speed of the model
    admission.py  room and time for more work
    outcomes.py   results of a batch, or the failures of single rows; the cache of results
    turns.py      one bulk pass at a time among schedulers that share processors
    scheduler.py  calls, rounds, deadlines, worker threads
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
from services.inference.scheduling.scheduler import Scheduler, row_failed
from services.inference.scheduling.turns import Turn
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
    "Turn",
    "Work",
    "row_failed",
]
