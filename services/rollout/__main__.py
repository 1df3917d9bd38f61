"""Composition root of the rollout service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from services.chassis import logs
from services.chassis.errors import StartupError
from services.chassis.server import Stage, run
from services.chassis.timing import in_background
from services.rollout.control import Control
from services.rollout.decisions import Patience
from services.rollout.experiments.analyst import Analyst
from services.rollout.experiments.control import ExperimentControl
from services.rollout.experiments.servicer import ExperimentServicer
from services.rollout.feedback.servicer import FeedbackServicer
from services.rollout.feedback.writing import FeedbackWriter
from services.rollout.gateways import Gateways
from services.rollout.leader_election import LeaderElection
from services.rollout.metrics import ExperimentMetrics, FeedbackMetrics, RolloutMetrics
from services.rollout.servicer import RolloutServicer, SnapshotServicer
from services.rollout.settings import RolloutSettings
from services.rollout.storage.database import open_database
from sluice.rollout.v1 import (
    experiment_pb2,
    experiment_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    rollout_pb2,
    rollout_pb2_grpc,
)

_log = logs.get_logger("rollout")


@asynccontextmanager
async def compose(settings: RolloutSettings) -> AsyncIterator[Stage]:
    """Compose the control plane over its database: it leads, or waits to lead."""
    metrics = RolloutMetrics()
    control = Control(
        Gateways(settings.rollout_gateway_live_seconds, settings.rollout_lease_seconds),
        lease_seconds=settings.rollout_lease_seconds,
        observer=metrics,
        patience=Patience(settings.rollout_no_data_seconds, settings.rollout_stale_seconds),
        latency_window_seconds=settings.rollout_latency_window_seconds,
        clock=time.time,
    )
    database = open_database(settings.rollout_database_url.get_secret_value(), settings.rollout_database_ca_file)
    replica = LeaderElection(
        database,
        control,
        metrics,
        tick_seconds=settings.rollout_decision_seconds,
        # A renewal that is lost or late must not end a lease.
        renewal_seconds=min(1.0, settings.rollout_lease_seconds / 4),
    )
    feedback = FeedbackWriter(database, FeedbackMetrics(), kept_days=settings.rollout_feedback_days)
    experiments = ExperimentControl(control, kept_days=settings.rollout_feedback_days, clock=time.time)
    analyst = Analyst(
        replica,
        experiments,
        database,
        ExperimentMetrics(),
        pause_seconds=settings.rollout_experiment_seconds,
        clock=time.time,
    )
    died = asyncio.Event()

    def register(server: grpc.aio.Server) -> None:
        rollout_pb2_grpc.add_RolloutServiceServicer_to_server(RolloutServicer(replica, control), server)
        rollout_pb2_grpc.add_SnapshotServiceServicer_to_server(SnapshotServicer(replica, control), server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentServicer(replica, experiments), server)
        servicer = FeedbackServicer(feedback, database, lambda: replica.problem)
        feedback_pb2_grpc.add_FeedbackStoreServiceServicer_to_server(servicer, server)

    async def lead() -> None:
        try:
            await replica.lead()
        except StartupError as error:
            _log.error("cannot lead", problem=error.message, remedy=error.remedy)
        finally:
            died.set()

    try:
        await replica.try_to_lead()
        async with in_background(lead(), feedback.keep(lambda: replica.problem is None), analyst.work()):
            yield Stage(
                service=rollout_pb2.DESCRIPTOR.services_by_name["RolloutService"],
                further_services=(
                    rollout_pb2.DESCRIPTOR.services_by_name["SnapshotService"],
                    experiment_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
                    feedback_pb2.DESCRIPTOR.services_by_name["FeedbackStoreService"],
                ),
                register=register,
                problem=lambda: replica.problem,
                end_streams=replica.end_watches,
                died=died,
            )
    finally:
        await feedback.close()
        await replica.close()


if __name__ == "__main__":
    run("rollout", RolloutSettings, compose)
