"""What the expander can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from services.chassis.settings import StageSettings
from services.expander.expansion import MAX_VARIANTS, Strategy


class ExpanderSettings(StageSettings):
    """What a request gets that does not say, and where WordNet is."""

    grpc_port: int = Field(50054, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    expansion_strategy: Strategy = Field(
        Strategy.SYNONYMS,
        description="How variants are made: `synonyms` needs WordNet at start, `multi_query` uses templates alone.",
    )
    expansion_max_variants: int = Field(
        5, ge=1, le=MAX_VARIANTS, description="Most variants of a query, the original counted."
    )
    synonym_weight: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Weight of a variant by a synonym beyond doubt; doubt lowers it. The query weighs 1.",
    )
    template_weight: float = Field(
        0.1, gt=0, lt=1, description="Weight of the variant by the closest template; others weigh less."
    )
    wordnet_dir: Annotated[Path | None, BeforeValidator(lambda value: value or None)] = Field(  # empty is unset, too
        None,
        description="Folder with WordNet's `data.noun`, `index.noun` and so on; unset looks in nltk's data folders, "
        "`/usr/share/wordnet` and where `make wordnet` puts it.",
    )
