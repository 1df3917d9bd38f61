"""What the expander can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.common.settings import StageSettings
from services.expander.expansion import MAX_VARIANTS, Strategy


class ExpanderSettings(StageSettings):
    """The expander's environment."""

    grpc_port: int = Field(50054, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    expansion_strategy: Strategy = Field(
        Strategy.SYNONYMS,
        description="`synonyms` (from WordNet, which must then be there at start) or `multi_query` (templates, no data); "
        "what a request that names no strategy gets.",
    )
    expansion_max_variants: int = Field(
        5, ge=1, le=MAX_VARIANTS, description="Most variants of a query, the original counted, unless a request says."
    )
    expansion_synonym_weight: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="Weight of a variant whose synonym is beyond doubt; less evidence, less weight. The query weighs 1.",
    )
    expansion_template_weight: float = Field(
        0.5, gt=0, lt=1, description="Weight of the template closest to the query; the others weigh less."
    )
    wordnet_dir: Path | None = Field(
        None,
        description="Folder of WordNet's database files (`data.noun`, `index.noun`, ...); unset looks in nltk's data path, "
        "`/usr/share/wordnet` and the folder that `make wordnet` fills.",
    )
