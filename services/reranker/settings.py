"""Settings of the reranker."""

from __future__ import annotations

from pydantic import Field

from services.inference.models.info import Backend, Device, Precision
from services.inference.models.runtime import ModelOptions
from services.inference.models.settings import InferenceSettings


class RerankerSettings(InferenceSettings):
    """The model that serves, and where it computes."""

    grpc_port: int = Field(50053, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    rerank_model: str = Field(
        "ms-marco-MiniLM-L-12-v2",
        min_length=1,
        description="Cross-encoder: a short name, a whole name or a folder.",
    )
    rerank_device: Device = Field("cpu", description="Where the cross-encoder computes.")
    rerank_backend: Backend = Field(
        "auto",
        description="What computes scores; `auto` is the fastest, timed at the first start, and on cuda `torch`.",
    )
    rerank_precision: Precision = Field(
        "fp32",
        description="Arithmetic: `fp32`, for which `auto` takes `bf16` where that is faster and as good; on cpu also "
        "`int8`, which is made and checked at the first start (minutes), and for which `auto` takes another where it "
        "loses too much on this processor or is slower; `bf16`; on cuda also `fp16`.",
    )
    rerank_passage_tokens: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Most tokens of a passage that the cross-encoder reads: of a longer one its title and the "
        "sentences with most of the query. 0 is as many as the model's window holds, from the start.",
    )

    @property
    def options(self) -> ModelOptions:
        """Options for loading the model."""
        return self.model_options(self.rerank_device, self.rerank_backend, self.rerank_precision)
