"""What a model is: its kind, its identity, and what has to be known to feed it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

_CONFIGURATION = re.compile(r"(config|modules|sentence_bert_config|config_sentence_transformers)\.json")
TOKENIZER_FILES = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|vocab)\.json|(vocab|merges)\.txt|.+\.model"
)
_MODULE_FOLDER = re.compile(r"\d+_\w+")
# What tools write about themselves: copies of a model that differ only here are the same model.
_VOLATILE = {"_name_or_path", "transformers_version", "__version__", "torch_dtype", "dtype"}


class ModelKind(StrEnum):
    """What a model is for, which decides how it is loaded."""

    ENCODER = "encoder"
    """A text in, a vector out."""
    CROSS_ENCODER = "cross-encoder"
    """A query and a passage in, one score out."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model as replies, logs and caches know it."""

    name: str
    """Whole name, as `sentence-transformers/all-MiniLM-L6-v2`; of a model given by its path, the folder's name."""
    fingerprint: str
    """sha256 of all that decides the output: the same for every backend, on every machine."""
    dimension: int
    """Columns of an output row: the vector's dimension; 1 for a cross-encoder."""
    max_token_count: int
    """Tokens of one input, special tokens included, beyond which it is truncated."""
    backend: str
    """`onnx`, `openvino`, `torch` or `pseudo`."""
    precision: str
    """What is computed with: `fp32`, `fp16`, `bf16` or `int8`."""
    device: str
    """`cpu` or `cuda`."""
    pseudo: bool = False
    """True where no model is loaded and vectors are made from hashes."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What has to be known to feed a model, besides its tokenizer."""

    dimension: int
    max_token_count: int
    pad_token_id: int
    prompts: dict[str, str]
    """What the model wants in front of a `query` and of a `document`; mostly empty."""

    def info(self, *, name: str, fingerprint: str, backend: str, precision: str, device: str) -> ModelInfo:
        """The model, loaded on a backend."""
        return ModelInfo(
            name=name,
            fingerprint=fingerprint,
            dimension=self.dimension,
            max_token_count=self.max_token_count,
            backend=backend,
            precision=precision,
            device=device,
        )


def weight_files(folder: Path) -> list[Path]:
    """The weights in a model folder: safetensors, or else PyTorch's older format; empty where there are none."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def fingerprint_of(folder: Path) -> str:
    """The sha256 over weights, configuration, tokenizer and the modules after them (pooling, normalization).

    Neither the folder's name nor times count, nor which version of a library wrote the files.
    """
    digest = hashlib.sha256()
    for room in [folder, *sorted(room for room in folder.iterdir() if _MODULE_FOLDER.fullmatch(room.name))]:
        for file in sorted(room.iterdir()):
            if _CONFIGURATION.fullmatch(file.name):
                content = json.loads(file.read_text())
                if isinstance(content, dict):
                    content = {key: value for key, value in content.items() if key not in _VOLATILE}
                part = json.dumps(content, sort_keys=True)
            elif TOKENIZER_FILES.fullmatch(file.name) or file in weight_files(room):
                part = file_digest(file)
            else:
                continue
            digest.update(f"{file.relative_to(folder)}\0{part}\0".encode())
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
