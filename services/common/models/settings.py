"""What every stage that runs a model can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from services.common.models.artifacts import default_cache_dir
from services.common.models.info import ModelInfo
from services.common.scheduling import SchedulerLimits
from services.common.settings import OptionalFolder, StageSettings

# Tokens with padding in one pass, and padding that costs less than another pass. On cpu measured (see
# `SchedulerLimits`); on cuda, where a pass of a few thousand tokens takes hardly longer than one of a hundred, set
# for want of measurements.
_PASS = {"cpu": (512, 16), "cuda": (16_384, 2_048)}


class InferenceSettings(StageSettings):
    """Where models are, how many processors they get, and how much may wait for them."""

    model_dir: OptionalFolder = Field(None, description="Folder with one model folder a name, looked into first.")
    model_cache_dir: Annotated[Path, BeforeValidator(lambda value: value or default_cache_dir())] = Field(
        default_factory=default_cache_dir,
        description="Folder for what is made from models once, as ONNX exports; unset is `~/.cache/sluice/models`.",
    )
    inference_threads: int = Field(
        0, ge=0, le=1024, description="Threads of one forward pass; 0 means what the cgroup grants this process."
    )
    batch_tokens: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="Largest batch for the model, in tokens with padding; 0 means 512 on cpu and 16,384 on cuda.",
    )
    queued_tokens: int = Field(
        262_144, ge=1024, description="Tokens that may wait for the model in each lane; more is refused."
    )
    cache_entries: int = Field(4096, ge=0, description="Results kept for texts that come again; 0 keeps none.")

    def scheduler_limits(self, model: ModelInfo) -> SchedulerLimits:
        """The scheduler's share of these settings, for the model that it will serve."""
        batch_tokens, padding_tokens = _PASS[model.device]
        return SchedulerLimits(
            batch_tokens=self.batch_tokens or batch_tokens,
            # A row of int8 has its own width, whatever it is computed with: see `OpenVinoRuntime.width`.
            padding_tokens=0 if model.precision == "int8" else padding_tokens,
            queued_tokens=self.queued_tokens,
            cache_entries=self.cache_entries,
        )
