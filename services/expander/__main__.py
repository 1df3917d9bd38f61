"""Composition root of the expander."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.chassis import logs
from services.chassis.errors import StartupError
from services.chassis.server import Stage, run
from services.expander.expansion import Expander, Strategy
from services.expander.lexicon import WordNetLexicon, locate_wordnet
from services.expander.metrics import process_metrics
from services.expander.servicer import ExpanderServicer
from services.expander.settings import ExpanderSettings
from sluice.expander.v1 import expander_pb2, expander_pb2_grpc

_log = logs.get_logger("expander")


@asynccontextmanager
async def compose(settings: ExpanderSettings) -> AsyncIterator[Stage]:
    """Compose the expander over WordNet; over templates alone if WordNet is missing and not the default strategy."""
    lexicon: WordNetLexicon | None = None
    try:
        lexicon = WordNetLexicon(locate_wordnet(settings.wordnet_dir))
    except StartupError as error:
        if settings.expansion_strategy is Strategy.SYNONYMS:
            raise
        _log.warning("synonyms will be answered by multi_query", problem=error.message, remedy=error.remedy)
    expander = Expander(lexicon, synonym_weight=settings.synonym_weight, template_weight=settings.template_weight)
    servicer = ExpanderServicer(
        expander, process_metrics(), settings.expansion_strategy, settings.expansion_max_variants
    )
    yield Stage(
        service=expander_pb2.DESCRIPTOR.services_by_name["ExpanderService"],
        register=lambda server: expander_pb2_grpc.add_ExpanderServiceServicer_to_server(servicer, server),
    )


if __name__ == "__main__":
    run("expander", ExpanderSettings, compose)
