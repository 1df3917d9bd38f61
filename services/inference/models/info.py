"""Kinds of models, and what is known about a model once it is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal

from sluice.type.v1 import model_pb2

Device = Literal["cpu", "cuda"]
Backend = Literal["auto", "onnx", "openvino", "torch"]
Precision = Literal["fp32", "int8", "fp16", "bf16"]


class ModelKind(StrEnum):
    """Task of a model, which decides how it is loaded."""

    ENCODER = "encoder"
    """A text in, a vector out."""
    CROSS_ENCODER = "cross-encoder"
    """A query and a passage in, one score out."""
    TOKENS = "tokens"
    """A text in, a vector for each of its tokens out, for late interaction."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model as replies, logs and caches describe it."""

    name: str
    """Whole name, as `sentence-transformers/all-MiniLM-L6-v2`; of a model given by its path, the folder's name."""
    fingerprint: str
    """sha256 of everything that decides the output: the same on each backend and each machine."""
    dimension: int
    """Columns of an output row: the dimension of a vector, or of a token's vector; 1 for a cross-encoder."""
    max_token_count: int
    """Tokens of one input, special tokens included, beyond which it is truncated."""
    backend: str
    """`onnx`, `openvino`, `torch` or `pseudo`."""
    precision: str
    """Number format of the computation: `fp32`, `fp16`, `bf16` or `int8`."""
    device: str
    """`cpu` or `cuda`."""
    pseudo: bool = False
    """True if no model is loaded and vectors are made from hashes."""

    def to_proto(self) -> model_pb2.ModelInfo:
        """Write the message."""
        return model_pb2.ModelInfo(**asdict(self))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Facts needed to feed a model, apart from its tokenizer."""

    dimension: int
    max_token_count: int
    pad_token_id: int
    prompts: dict[str, str]
    """Text that the model expects before a `query` and before a `document`; mostly empty."""

    def info(self, *, name: str, fingerprint: str, backend: str, precision: str, device: str) -> ModelInfo:
        """Describe the model as loaded on a backend."""
        return ModelInfo(
            name=name,
            fingerprint=fingerprint,
            dimension=self.dimension,
            max_token_count=self.max_token_count,
            backend=backend,
            precision=precision,
            device=device,
        )
