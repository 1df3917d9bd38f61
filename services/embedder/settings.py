"""What the embedder can be told."""

from __future__ import annotations

from pydantic import Field

from services.inference.models.runtime import Backend, Device, Precision
from services.inference.models.settings import InferenceSettings


class EmbedderSettings(InferenceSettings):
    """Which model serves, and on what."""

    grpc_port: int = Field(50052, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    embedding_model: str = Field(
        "all-MiniLM-L6-v2",
        description="Model: a short name, a whole name or a folder. Empty serves deterministic pseudo-embeddings.",
    )
    embedding_device: Device = Field("cpu", description="Where the embedding model computes.")
    embedding_backend: Backend = Field(
        "auto",
        description="What computes embeddings; `auto` is `onnx` on cpu (`openvino` for int8) and `torch` on cuda.",
    )
    embedding_precision: Precision = Field(
        "fp32",
        description="Arithmetic: `fp32`; on cpu also `int8`, which is made and checked at the first start (minutes); "
        "on cuda also `fp16` and `bf16`.",
    )
    pseudo_dimension: int = Field(
        384, ge=8, le=4096, description="Dimension of pseudo-embeddings, where EMBEDDING_MODEL is empty."
    )
