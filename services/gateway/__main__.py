"""Composition root of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import grpc

from services.chassis.admission.concurrency import ConcurrencyLimit
from services.chassis.server import Stage, run
from services.chassis.timing import in_background
from services.gateway.answering.answering import Answering
from services.gateway.collections.embedders import Embedders
from services.gateway.collections.following import Following, Writing
from services.gateway.collections.index_monitor import IndexMonitor
from services.gateway.collections.indexing import Indexing
from services.gateway.collections.reindexing import Reindexing
from services.gateway.collections.verification import Verification
from services.gateway.feedback.impressions import Impressions
from services.gateway.feedback.recording import Recording
from services.gateway.feedback.reporting import Reporting
from services.gateway.feedback.showing import Showings
from services.gateway.metrics import GatewayMetrics, process_metrics
from services.gateway.quotas.book import QuotaBook
from services.gateway.quotas.quotas import Quotas
from services.gateway.quotas.rates import Rates, SharedRates
from services.gateway.rollout.client import RolloutClient, housekeeping, look_once, name_of_this_process
from services.gateway.rollout.evidence import Evidence
from services.gateway.rollout.exposure import Exposure
from services.gateway.rollout.local_overrides import OverridesFile
from services.gateway.rollout.shadow import Shadow
from services.gateway.rollout.snapshot import SnapshotFile
from services.gateway.rpc import collections_servicer, documents_servicer, transfer_servicer
from services.gateway.rpc.access_servicer import AccessServicer
from services.gateway.rpc.answer_servicer import AnswerServicer
from services.gateway.rpc.channels import Channels
from services.gateway.rpc.clients import StageClients
from services.gateway.rpc.collections_servicer import CollectionsServicer
from services.gateway.rpc.documents_servicer import DocumentsServicer
from services.gateway.rpc.feedback import servicer as feedback_servicer
from services.gateway.rpc.feedback.client import FeedbackClient
from services.gateway.rpc.feedback.servicer import FeedbackServicer
from services.gateway.rpc.search_servicer import SearchServicer
from services.gateway.rpc.status_servicer import StatusServicer
from services.gateway.rpc.transfer_servicer import TransferServicer
from services.gateway.rpc.user_searches import UserSearches
from services.gateway.search.budgets import Budgets
from services.gateway.search.pipeline import Pipeline
from services.gateway.settings import GatewaySettings
from sluice.gateway.v1 import (
    access_pb2,
    access_pb2_grpc,
    answer_pb2,
    answer_pb2_grpc,
    collections_pb2,
    collections_pb2_grpc,
    documents_pb2,
    documents_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
    transfer_pb2,
    transfer_pb2_grpc,
)
from sluice.type.v1 import model_pb2


@asynccontextmanager
async def compose(settings: GatewaySettings) -> AsyncIterator[Stage]:
    """Open channels to the stages and build the servicers over them.

    The gateway serves while stages are down, too: its replies say what is missing.
    """
    metrics = process_metrics()
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(Channels(settings, metrics))
        clients = StageClients.over(channels.guarded, settings)
        embedders = Embedders(clients.embedders, clients.retriever, token_vectors=settings.token_vectors)
        following = Following(clients.retriever, embedders)
        writing = Writing(clients.retriever, following)
        verification = Verification(clients.retriever, embedders)
        reindexing = Reindexing(clients.retriever, embedders, following, verification)
        limit = ConcurrencyLimit(settings.limit_bounds())
        exposure = await stack.enter_async_context(_exposing(settings, channels, metrics))
        feedback = await stack.enter_async_context(_feedback(settings, channels, metrics))
        # Without breakers: what fails in the background must not stop searches.
        background = StageClients.over(channels.opened, settings, model_pb2.PRIORITY_BULK)
        shadow = None
        if settings.rollout_address:
            shadow = Shadow(
                Pipeline(
                    background.stages(Embedders(background.embedders, background.retriever)),
                    settings.weights(),
                    Budgets(),
                ),
                background.reranker,
                exposure.evidence,
                metrics,
                lambda: limit.occupied,
            )
            stack.push_async_callback(shadow.close)
        searches = UserSearches(
            Pipeline(
                clients.stages(embedders),
                settings.weights(),
                Budgets(),
                metrics.observe_stages,
                page_bytes=settings.max_message_mib * 2**20 * 3 // 4,
            ),
            settings,
            exposure,
            shadow,
            metrics,
            feedback.showings,
        )
        search = SearchServicer(searches, clients.retriever, settings)
        answers = AnswerServicer(searches, Answering(clients.reasoner), settings, metrics)
        documents = DocumentsServicer(
            Indexing(embedders, clients.retriever, writing), writing, clients.retriever, settings
        )
        collections = CollectionsServicer(embedders, clients.retriever, reindexing, verification, settings)
        transfers = TransferServicer(embedders, clients.retriever, settings)
        access = AccessServicer(settings)
        status = StatusServicer(clients, exposure, settings)
        monitor = IndexMonitor(settings.qdrant_collection, background.retriever, background.embedders, metrics)
        await stack.enter_async_context(in_background(monitor.poll()))

        quotas = _quotas(settings, metrics)
        await stack.enter_async_context(in_background(quotas.watch()))

        def register(server: grpc.aio.Server) -> None:
            search_pb2_grpc.add_SearchServiceServicer_to_server(search, server)
            answer_pb2_grpc.add_AnswerServiceServicer_to_server(answers, server)
            documents_pb2_grpc.add_DocumentServiceServicer_to_server(documents, server)
            collections_pb2_grpc.add_CollectionServiceServicer_to_server(collections, server)
            access_pb2_grpc.add_AccessServiceServicer_to_server(access, server)
            status_pb2_grpc.add_StatusServiceServicer_to_server(status, server)
            transfer_pb2_grpc.add_TransferServiceServicer_to_server(transfers, server)
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(feedback.servicer, server)

        yield Stage(
            service=search_pb2.DESCRIPTOR.services_by_name["SearchService"],
            further_services=(
                answer_pb2.DESCRIPTOR.services_by_name["AnswerService"],
                documents_pb2.DESCRIPTOR.services_by_name["DocumentService"],
                collections_pb2.DESCRIPTOR.services_by_name["CollectionService"],
                status_pb2.DESCRIPTOR.services_by_name["StatusService"],
                access_pb2.DESCRIPTOR.services_by_name["AccessService"],
                transfer_pb2.DESCRIPTOR.services_by_name["TransferService"],
                feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
            ),
            register=register,
            collection=settings.qdrant_collection,
            limit=limit,
            quotas=quotas,
            edge=True,
            bulk_methods=documents_servicer.BULK_METHODS
            | collections_servicer.BULK_METHODS
            | transfer_servicer.BULK_METHODS
            | feedback_servicer.BULK_METHODS,
        )


@asynccontextmanager
async def _exposing(settings: GatewaySettings, channels: Channels, metrics: GatewayMetrics) -> AsyncIterator[Exposure]:
    """Keep the exposure up to date from the rollout service, a file, or neither."""
    defaults, local = settings.default_features(), settings.local_overrides()
    exposure = Exposure(defaults, local, Evidence(), metrics)
    async with AsyncExitStack() as stack:
        client = None
        if settings.rollout_address:
            client = RolloutClient(
                channels.opened(settings.rollout_address, RolloutClient.service),
                exposure,
                defaults=defaults,
                gateway=settings.rollout_gateway_name or name_of_this_process(),
                file=SnapshotFile(settings.rollout_snapshot_path),
                report_seconds=settings.rollout_report_seconds,
                metrics=metrics,
            )
            await client.restore()
        file = None
        if settings.rollout_overrides_path:
            file = OverridesFile(settings.rollout_overrides_path, local, defaults)
            # Before the first request: the file may hold a kill.
            await look_once(file, exposure, client)
        if client is not None:
            await stack.enter_async_context(client.running())
        await stack.enter_async_context(housekeeping(file, exposure, client))
        yield exposure


class _Feedback(NamedTuple):
    """The parts of feedback."""

    showings: Showings | None
    servicer: FeedbackServicer


@asynccontextmanager
async def _feedback(settings: GatewaySettings, channels: Channels, metrics: GatewayMetrics) -> AsyncIterator[_Feedback]:
    """Sign impressions and report them, where there are keys and a rollout service."""
    keys = settings.keys_of_feedback()
    if not (keys and settings.rollout_address):
        yield _Feedback(None, FeedbackServicer(None, None, settings, metrics))
        return
    impressions = Impressions(keys)
    client = FeedbackClient(channels.opened(settings.rollout_address, FeedbackClient.service))
    reporting = Reporting(client.report, metrics)
    showings = Showings(impressions, reporting.add, settings.feedback_impressions, settings.feedback_queries)
    recording = Recording(impressions, settings.feedback_days)
    async with reporting.running():
        yield _Feedback(showings, FeedbackServicer(recording, client, settings, metrics))


def _quotas(settings: GatewaySettings, metrics: GatewayMetrics) -> Quotas:
    """Make the quotas of the settings. Raise StartupError where the file or the store is wrong."""
    replicas, store = settings.quota_replicas, settings.quota_store.get_secret_value()
    return Quotas(
        QuotaBook(settings.quota(), settings.quota_file),
        SharedRates(store, metrics.quota_store_failures.inc, replicas) if store else Rates(),
        replicas=replicas,
        shared=bool(store),
        on_refusal=lambda limit, scope: metrics.quota_refusals.labels(limit, scope).inc(),
    )


if __name__ == "__main__":
    run("gateway", GatewaySettings, compose)
