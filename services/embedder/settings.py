"""Settings of the embedder."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from services.inference.models.info import Backend, Device, ModelInfo, Precision
from services.inference.models.runtime import ModelOptions
from services.inference.models.settings import InferenceSettings
from services.inference.scheduling import SchedulerLimits, Turn


class EmbedderSettings(InferenceSettings):
    """The model that serves, and where it computes."""

    grpc_port: int = Field(50052, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    embedding_model: str = Field(
        "all-MiniLM-L6-v2",
        description="Model: a short name, a whole name or a folder. Empty serves deterministic pseudo-embeddings.",
    )
    embedding_device: Device = Field("cpu", description="Where the embedding model computes.")
    embedding_backend: Backend = Field(
        "auto",
        description="What computes embeddings; `auto` is the fastest, timed at the first start, and on cuda `torch`.",
    )
    embedding_precision: Precision = Field(
        "fp32",
        description="Arithmetic: `fp32`, for which `auto` takes `bf16` where that is faster and as good; on cpu also "
        "`int8`, which is made and checked at the first start (minutes), and for which `auto` takes another where it "
        "loses too much on this processor or is slower; `bf16`; on cuda also `fp16`.",
    )
    token_model: str = Field(
        "answerai-colbert-small-v1",
        description="Late interaction model that makes token vectors for reranking, on the device and in the precision "
        "of embeddings: a short name, a whole name or a folder. Empty serves none. Hashed words stand for it where "
        "EMBEDDING_MODEL is empty.",
    )
    token_passage_tokens: int = Field(
        180, ge=16, le=512, description="Tokens of a passage that the token model reads, special tokens included."
    )
    pseudo_dimension: int = Field(
        384, ge=8, le=4096, description="Dimension of pseudo-embeddings, where EMBEDDING_MODEL is empty."
    )

    @property
    def options(self) -> ModelOptions:
        """Options for loading the model."""
        return self.model_options(self.embedding_device, self.embedding_backend, self.embedding_precision)

    def limits(self, model: ModelInfo, turn: Turn) -> SchedulerLimits:
        """Limits of one model's scheduler; `turn` is that of all models of the stage."""
        limits = self.scheduler_limits(model)
        # A worker that waits for its turn serves nobody: only where an express serves arrivals meanwhile.
        return replace(limits, bulk_turn=turn) if limits.express else limits

    def token_limits(self, model: ModelInfo, turn: Turn) -> SchedulerLimits:
        """Limits of the token model's scheduler, which keeps fewer results: one is as large as six vectors."""
        limits = self.limits(model, turn)
        return replace(limits, cache_entries=limits.cache_entries // 4)

    @property
    def token_options(self) -> ModelOptions:
        """Options for loading the token model: those of embeddings, but an int8 that is refused stops nothing."""
        if self.embedding_precision == "int8":
            return self.model_options(self.embedding_device, "auto", "int8")
        return self.options
