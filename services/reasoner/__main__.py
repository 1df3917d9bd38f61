"""Composition root of the reasoner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.chassis import logs
from services.chassis.breaker import Breaker
from services.chassis.server import Stage, run
from services.reasoner.chat_server import ChatServer
from services.reasoner.language_model import LanguageModel
from services.reasoner.metrics import ReasonerMetrics, process_metrics
from services.reasoner.ollama_chat import OllamaChat
from services.reasoner.openai_chat import OpenAIChat
from services.reasoner.reasoning import Reasoner
from services.reasoner.servicer import ReasonerServicer
from services.reasoner.settings import ReasonerSettings
from services.reasoner.writing import LanguageModelWriter
from sluice.reasoner.v1 import reasoner_pb2, reasoner_pb2_grpc

_log = logs.get_logger("reasoner")


@asynccontextmanager
async def compose(settings: ReasonerSettings) -> AsyncIterator[Stage]:
    """Compose the reasoner over a language model; without one it answers by sentences.

    It serves while the model is down: its answers say so.
    """
    metrics = process_metrics()
    async with AsyncExitStack() as stack:
        writer = None
        if settings.reasoner_llm_url:
            server = ChatServer(
                settings.reasoner_llm_url.rstrip("/"),
                settings.reasoner_llm_key.get_secret_value(),
                connections=settings.reasoner_llm_concurrency,
            )
            stack.push_async_callback(server.aclose)
            writer = LanguageModelWriter(
                _model(server, settings), settings.limits(), _breaker(settings, metrics), metrics.used
            )
            places = writer.places
            metrics.waiting.set_function(lambda: places.waiting)
        else:
            _log.info("no language model is configured: answers are made of sentences")
        servicer = ReasonerServicer(Reasoner(writer), metrics, settings.reasoner_llm_seconds)
        yield Stage(
            service=reasoner_pb2.DESCRIPTOR.services_by_name["ReasonerService"],
            register=lambda server: reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(servicer, server),
        )


def _model(server: ChatServer, settings: ReasonerSettings) -> LanguageModel:
    if settings.reasoner_llm_api == "ollama":
        return OllamaChat(server, settings.reasoner_llm_model, settings.reasoner_context_tokens)
    return OpenAIChat(server, settings.reasoner_llm_model)


def _breaker(settings: ReasonerSettings, metrics: ReasonerMetrics) -> Breaker:
    return Breaker(
        "llm",
        failures=settings.reasoner_breaker_failures,
        reset_seconds=settings.reasoner_breaker_reset_seconds,
        on_transition=lambda _name, _old, new: metrics.breaker_open.set(new != "closed"),
    )


if __name__ == "__main__":
    run("reasoner", ReasonerSettings, compose)
