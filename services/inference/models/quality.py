"""Measured quality of an int8 model next to fp32, and the gate that it has to pass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from services.chassis.errors import StartupError

QUALITY_FILE = "quality.json"


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
        return cls(**json.loads((folder / QUALITY_FILE).read_text()))

    def write(self, folder: Path) -> None:
        """Write it next to the model."""
        (folder / QUALITY_FILE).write_text(json.dumps(asdict(self), indent=2))


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
