"""What the reranker can be told."""

from __future__ import annotations

from pydantic import Field

from services.inference.models.runtime import Backend, Device, Precision
from services.inference.models.settings import InferenceSettings


class RerankerSettings(InferenceSettings):
    """Which model serves, and on what."""

    grpc_port: int = Field(50053, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    rerank_model: str = Field(
        "ms-marco-MiniLM-L-12-v2",
        min_length=1,
        description="Cross-encoder: a short name, a whole name or a folder.",
    )
    rerank_device: Device = Field("cpu", description="Where the cross-encoder computes.")
    rerank_backend: Backend = Field(
        "auto",
        description="What computes scores; `auto` is `onnx` on cpu (`openvino` for int8) and `torch` on cuda.",
    )
    rerank_precision: Precision = Field(
        "fp32",
        description="Arithmetic: `fp32`; on cpu also `int8`, which is made and checked at the first start (minutes); "
        "on cuda also `fp16` and `bf16`.",
    )
