"""Settings of the expander."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import OptionalFolder, StageSettings
from services.expander.expansion import MAX_VARIANTS, Strategy


class ExpanderSettings(StageSettings):
    """Defaults of a request, and the place of WordNet."""

    grpc_port: int = Field(50054, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    expansion_strategy: Strategy = Field(
        Strategy.SYNONYMS,
        description="Way to make variants: `synonyms` needs WordNet at start, `multi_query` uses templates alone.",
    )
    expansion_max_variants: int = Field(
        5, ge=1, le=MAX_VARIANTS, description="Most variants of a query, the query included."
    )
    synonym_weight: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Weight of a variant by a certain synonym; doubt lowers it. The query weighs 1.",
    )
    template_weight: float = Field(
        0.1, gt=0, lt=1, description="Weight of the variant by the closest template; others weigh less."
    )
    wordnet_dir: OptionalFolder = Field(
        None,
        description="Folder with WordNet as nltk lays it out; unset searches `corpora/wordnet` in nltk's data folders "
        "and in the one that `make wordnet` fills.",
    )
