"""Quality of a loaded model: its answers next to those of sentence-transformers, and the gate that int8 has to pass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.chassis.errors import StartupError
from services.inference.models.info import ModelInfo, ModelKind
from services.inference.models.tokenization import LateText, Tokenizer

if TYPE_CHECKING:
    from services.inference.models.runtime import Runtime

QUALITY_FILE = "quality.json"
ANSWERS_FILE = "answers.npy"
PROBES = [
    "",
    "A short Text",
    "naïve Café, 東京, straße, Москва – 10 € and a 😀",  # noqa: RUF001  on purpose
    "compare two files line by line " * 5,
    " ".join(f"word{number}" for number in range(600)),
]
# A query and its passages: few, because each start computes them.
PROBE_PAIRS = [(PROBES[1], PROBES), (PROBES[4], PROBES[4:])]
# Tokens of the longest probe of a late interaction model.
_PROBE_TOKENS = 64
# Relative to the largest number in the answers. Between two fp32 engines the difference is about 1e-6; of a model that
# is fed or pooled wrongly it is more than 1e-2. int8 has a gate of its own: here it only must not be another model.
_TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 2e-1, "int8": 1.0}


class PrecisionRefused(StartupError):
    """A model that has lost too much quality in a lower precision."""


@dataclass(frozen=True, slots=True)
class Quality:
    """An int8 model compared with fp32, on one processor."""

    likeness: float
    """Of vectors, the mean cosine between both; of scores, their correlation."""
    fp32_ndcg: float
    """nDCG@10 over known items, fp32."""
    int8_ndcg: float
    """The same, int8."""
    instructions: str
    """Instructions of the processor that it was measured on, see `int8_instructions`."""

    @property
    def ndcg_loss(self) -> float:
        """Share of the nDCG that was lost; negative where int8 finds more."""
        return 1 - self.int8_ndcg / self.fp32_ndcg if self.fp32_ndcg else 0.0

    @classmethod
    def read(cls, folder: Path) -> Quality:
        """Read the quality of the model in a folder."""
        return cls(**json.loads((folder / QUALITY_FILE).read_text(encoding="utf-8")))

    def write(self, folder: Path) -> None:
        """Write it next to the model."""
        (folder / QUALITY_FILE).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class QualityGate:
    """Limits that an int8 model has to keep to be served."""

    least_likeness: float = 0.99
    # One answer that falls from the first rank to the second is a quarter of a percent of 150.
    most_ndcg_loss: float = 0.01

    def check(self, quality: Quality) -> None:
        """Raise PrecisionRefused if the model has lost too much."""
        if not (quality.likeness >= self.least_likeness and quality.ndcg_loss <= self.most_ndcg_loss):
            raise PrecisionRefused(
                f"int8 fails the quality gate: likeness to fp32 {quality.likeness:.4f} (at least "
                f"{self.least_likeness}), nDCG@10 {quality.int8_ndcg:.4f} after {quality.fp32_ndcg:.4f} (at most "
                f"{self.most_ndcg_loss:.1%} less), measured with {quality.instructions}",
                remedy="Set the precision to fp32.",
            )


def answers_of(runtime: Runtime, kind: ModelKind) -> NDArray[np.float32]:
    """Compute the answers to all probes, in the order of `reference.answers_by_torch`: [probes, dimension].

    Of a late interaction model there is an answer for each token of a probe.
    """
    tokenizer, rows = runtime.tokenizer, []
    if kind is ModelKind.ENCODER:
        for role in ("query", "document"):
            texts = tokenizer.texts([runtime.spec.prompts[role] + probe for probe in PROBES])
            rows += [runtime.run([text.ids]) for text in texts]
    elif kind is ModelKind.TOKENS:
        for text in late_probes(tokenizer):  # some engines pad a row, and compute its padding
            rows.append(runtime.run([text.ids], attended=[text.attended])[0, : len(text.ids)])
    else:
        for query, passages in PROBE_PAIRS:
            rows += [runtime.run([pair.ids], [pair.type_ids]) for pair in tokenizer.pairs(query, passages)]
    return np.concatenate(rows)


def late_probes(tokenizer: Tokenizer) -> list[LateText]:
    """Tokenize the probes for late interaction, as queries and as passages."""
    return [*tokenizer.late_queries(PROBES), *tokenizer.late_passages(PROBES, _PROBE_TOKENS)]


def problem_of_answers(
    answers: NDArray[np.float32], info: ModelInfo, expected: NDArray[np.float32] | None
) -> str | None:
    """Say what is wrong with the answers of a model, or None; `expected` are those of sentence-transformers."""
    if answers.ndim != 2 or answers.shape[1] != info.dimension:
        return f"its output has the shape {list(answers.shape)}, where {info.dimension} columns are expected"
    if not np.isfinite(answers).all():
        return "its output is not finite (NaN)"
    if expected is None:
        return None
    if expected.shape != answers.shape:
        return f"sentence-transformers gives it the shape {list(expected.shape)}, not {list(answers.shape)}"
    difference = float(np.abs(answers - expected).max() / np.abs(expected).max())
    if not difference <= _TOLERANCES[info.precision]:
        return f"its output differs from that of sentence-transformers by {difference:.1g} of the largest number"
    return None
