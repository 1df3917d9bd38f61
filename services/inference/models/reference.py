"""Serve a model by sentence-transformers on torch: the reference for other engines, and the engine for cuda.

Called as `python -m services.inference.models.reference KIND MODEL_FOLDER TARGET`, it writes the answers that every
engine must give to a few probes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer

from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind, ModelSpec
from services.inference.models.layout import (
    PROJECTION,
    chosen_prompts,
    fingerprint_of,
    read_json,
    read_spec,
    transformer_folder,
    weights_file,
)
from services.inference.models.quality import ANSWERS_FILE, PROBE_PAIRS, PROBES, late_probes
from services.inference.models.resolver import ResolvedModel
from services.inference.models.tokenization import Tokenizer, feed_for

_OUTPUT = {
    ModelKind.ENCODER: "sentence_embedding",
    ModelKind.CROSS_ENCODER: "scores",
    ModelKind.TOKENS: "token_embeddings",
}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LONGEST_INPUT = 65_536
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Rows are padded to multiples of this on cuda: matrix units want multiples of 8, and memory is asked for in few sizes.
_BUCKET_TOKENS = 16


class ReferenceModel(torch.nn.Module):
    """A sentence-transformers model from its token ids to its last output, raw logits for a cross-encoder."""

    def __init__(
        self, folder: Path, kind: ModelKind, device: str, *, precision: str = "fp32", attention: str | None = None
    ) -> None:
        super().__init__()
        # Without `use_safetensors`, transformers would take pickled weights where there are both.
        options = {"dtype": _DTYPES[precision], "use_safetensors": True} | (
            {"attn_implementation": attention} if attention else {}
        )
        if kind is ModelKind.TOKENS:
            transformer = Transformer(str(folder), model_kwargs=options | {"local_files_only": True})
            self.model = SentenceTransformer(modules=[transformer], device=device).eval()
            self._projection = _projection(folder, device, _DTYPES[precision])
        else:
            load = SentenceTransformer if kind is ModelKind.ENCODER else CrossEncoder
            self.model = load(str(folder), device=device, local_files_only=True, model_kwargs=options).eval()
        self.kind = kind
        self._folder = folder
        self.input_names = [name for name in _INPUTS if name in self.model.tokenizer.model_input_names]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Map tensors [rows, tokens], in the order of `input_names`, to [rows, dimension], or a row for each token."""
        features: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        rows: torch.Tensor = self.model(features)[_OUTPUT[self.kind]]
        return rows @ self._projection if self.kind is ModelKind.TOKENS else rows

    def spec(self) -> ModelSpec:
        """Return how to feed the model; raise StartupError if this platform would feed it wrongly."""
        if self.kind is ModelKind.TOKENS:
            return read_spec(self._folder, self.kind)
        model, tokenizer = self.model, self.model.tokenizer
        max_token_count = model.max_seq_length or 0
        if tokenizer.truncation_side != "right" or not 0 < max_token_count <= _LONGEST_INPUT:
            raise StartupError(
                "the model does not say after how many tokens it cuts off the end of a text",
                remedy="Give it a max_seq_length in its sentence_bert_config.json, or choose another model.",
            )
        return ModelSpec(
            dimension=model.get_embedding_dimension() or 0 if isinstance(model, SentenceTransformer) else 1,
            max_token_count=max_token_count,
            pad_token_id=tokenizer.pad_token_id,
            prompts=chosen_prompts(model.prompts, model.default_prompt_name),
        )

    def tokenizer_definition(self) -> str:
        """Return the tokenizer as transformers set it up from all files: content of a tokenizer.json."""
        return str(self.model.tokenizer.backend_tokenizer.to_str())


def _projection(folder: Path, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Return what turns the states of a late interaction model into its vectors: [hidden, dimension]."""
    with safe_open(weights_file(folder), framework="pt", device=device) as weights:
        if PROJECTION in weights.keys():  # noqa: SIM118  it is no dictionary
            projection: torch.Tensor = weights.get_tensor(PROJECTION).to(dtype)
            return projection.T
    hidden = read_json(transformer_folder(folder) / "config.json")["hidden_size"]
    return torch.eye(hidden, read_spec(folder, ModelKind.TOKENS).dimension, dtype=dtype, device=device)


def answers_by_torch(reference: ReferenceModel) -> NDArray[np.float32]:
    """Answer all probes, see `answers_of`; those of a late interaction model are tokenized here."""
    if reference.kind is not ModelKind.TOKENS:
        return reference_answers(reference.model)
    spec = reference.spec()
    states = []
    for text in late_probes(Tokenizer(reference.tokenizer_definition(), spec.max_token_count)):
        feed = feed_for([text.ids], None, spec.pad_token_id, attended=[text.attended])
        with torch.inference_mode():
            states.append(reference(*(torch.from_numpy(feed[name]) for name in reference.input_names))[0].numpy())
    return np.concatenate(states)


def reference_answers(model: SentenceTransformer | CrossEncoder) -> NDArray[np.float32]:
    """Answer all probes by the public calls of sentence-transformers: [probes, dimension]."""
    if isinstance(model, SentenceTransformer):
        return np.concatenate([encode(PROBES) for encode in (model.encode_query, model.encode_document)])
    inputs = [(query, passage) for query, passages in PROBE_PAIRS for passage in passages]
    scores: NDArray[np.float32] = model.predict(inputs, activation_fn=torch.nn.Identity())
    return scores[:, np.newaxis]


class TorchRuntime:
    """A sentence-transformers model, unchanged."""

    def __init__(self, model: ResolvedModel, *, device: str, precision: str, threads: int) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise StartupError(
                "the device is cuda, but torch sees no GPU",
                remedy="Set the device to cpu, or install torch's CUDA build and run where `nvidia-smi` lists a GPU.",
            )
        torch.set_num_threads(threads)
        self._device = device
        self._model = ReferenceModel(model.folder, model.kind, device, precision=precision)
        self._bucket_tokens = _BUCKET_TOKENS if device == "cuda" else 1
        self.spec = self._model.spec()
        self.tokenizer = Tokenizer(self._model.tokenizer_definition(), self.spec.max_token_count)
        self.info = self.spec.info(
            name=model.name,
            fingerprint=fingerprint_of(model.folder),
            backend="torch",
            precision=precision,
            device=device,
        )

    def width(self, token_count: int) -> int:
        """See `Runtime.width`."""
        bucketed = -(-token_count // self._bucket_tokens) * self._bucket_tokens
        return max(token_count, min(bucketed, self.spec.max_token_count))

    def warm_up(self, batch_tokens: int) -> None:
        """Compute the largest batch once, for the kernels and the memory: see `Runtime.warm_up`."""
        width = min(batch_tokens, self.spec.max_token_count)
        for rows in (1, batch_tokens // width):
            self.run([[self.spec.pad_token_id] * width] * rows)

    def run(
        self,
        ids: Sequence[list[int]],
        type_ids: Sequence[list[int]] | None = None,
        attended: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """See `Runtime.run`."""
        feed = feed_for(ids, type_ids, self.spec.pad_token_id, self.width(max(map(len, ids))), attended)
        with torch.inference_mode():
            tensors = (torch.from_numpy(feed[name]).to(self._device) for name in self._model.input_names)
            rows: NDArray[np.float32] = self._model(*tensors).float().cpu().numpy()
        return rows


if __name__ == "__main__":
    reference = ReferenceModel(Path(sys.argv[2]), ModelKind(sys.argv[1]), "cpu")
    np.save(Path(sys.argv[3], ANSWERS_FILE), answers_by_torch(reference))
