"""The clients of all stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from services.chassis.client import StageChannel
from services.gateway.collections.embedders import Embedders
from services.gateway.rpc.model_clients import EmbedderClient, ExpanderClient, RerankerClient
from services.gateway.rpc.reasoner_client import ReasonerClient
from services.gateway.rpc.retriever_client import RetrieverClient
from services.gateway.search.pipeline import Stages
from services.gateway.search.stages import Stage
from services.gateway.settings import GatewaySettings
from sluice.type.v1 import model_pb2

StageClient = ExpanderClient | EmbedderClient | RetrieverClient | RerankerClient | ReasonerClient


@dataclass(frozen=True, slots=True)
class StageClients:
    """One client for every stage, and one for every embedder."""

    expander: ExpanderClient
    embedders: Sequence[EmbedderClient]
    """The first one serves new collections."""
    retriever: RetrieverClient
    reranker: RerankerClient
    reasoner: ReasonerClient

    @classmethod
    def over(
        cls,
        open_channel: Callable[[str, str], StageChannel],
        settings: GatewaySettings,
        priority: model_pb2.Priority.ValueType = model_pb2.PRIORITY_INTERACTIVE,
    ) -> Self:
        """Make clients over channels of their own. `open_channel` takes an address and a service."""
        return cls(
            expander=ExpanderClient(open_channel(settings.expander_address, ExpanderClient.service)),
            embedders=[
                EmbedderClient(open_channel(address, EmbedderClient.service))
                for address in settings.embedder_addresses()
            ],
            retriever=RetrieverClient(open_channel(settings.retriever_address, RetrieverClient.service)),
            reranker=RerankerClient(open_channel(settings.reranker_address, RerankerClient.service), priority),
            reasoner=ReasonerClient(open_channel(settings.reasoner_address, ReasonerClient.service)),
        )

    def stages(self, embedders: Embedders) -> Stages:
        """Return the stages of a pipeline that calls these clients."""
        return Stages(self.expander, embedders, self.retriever, self.reranker)

    def named(self) -> list[tuple[Stage, StageClient]]:
        """Return every client with its stage, in the order of the pipeline, and further embedders at the end."""
        first, *further = self.embedders
        return [
            (Stage.EXPAND, self.expander),
            (Stage.EMBED, first),
            (Stage.RETRIEVE, self.retriever),
            (Stage.RERANK, self.reranker),
            (Stage.REASON, self.reasoner),
            *((Stage.EMBED, embedder) for embedder in further),
        ]
