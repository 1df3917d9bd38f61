"""Settings of every stage that runs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from services.chassis.settings import OptionalFile, OptionalFolder, StageSettings
from services.inference.cpu import available_cpus
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import Backend, Device, ModelInfo, Precision
from services.inference.models.runtime import ModelOptions
from services.inference.scheduling import SchedulerLimits

_LEAST_BATCH_TOKENS = 16


class InferenceSettings(StageSettings):
    """Folders of models, their processors, and bounds of their queues."""

    model_dir: OptionalFolder = Field(None, description="Folder with one model folder a name, looked into first.")
    model_cache_dir: Annotated[Path, BeforeValidator(lambda value: value or default_cache_dir())] = Field(
        default_factory=default_cache_dir,
        description="Folder for models, and for int8 weights and exports made once; unset is `~/.cache/sluice/models`.",
    )
    models_lock: OptionalFile = Field(
        None,
        description="File by which models are loaded (`sluice models lock`): what it does not list, or what differs, "
        "is refused. Unset loads any model.",
    )
    models_key: OptionalFile = Field(
        None, description="Public key (PEM) with which `MODELS_LOCK` has to be signed; unset asks for no signature."
    )
    inference_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads of one forward pass, in int8 of as many passes at once; 0 means what the cgroup grants.",
    )
    batch_tokens: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="Largest batch for the model, in padded tokens, 16 or more; 0 means 512 on cpu and 16,384 on cuda.",
    )
    queued_tokens: int = Field(
        262_144, ge=1024, description="Tokens that may wait for the model in each lane; more is refused."
    )
    cache_entries: int = Field(4096, ge=0, description="Results kept for texts that come again; 0 keeps none.")

    @field_validator("batch_tokens")
    @classmethod
    def _a_batch_holds_a_text(cls, value: int) -> int:
        if 0 < value < _LEAST_BATCH_TOKENS:
            raise ValueError(f"is {value}; set 0, or at least {_LEAST_BATCH_TOKENS}")
        return value

    def model_options(self, device: Device, backend: Backend, precision: Precision) -> ModelOptions:
        """Options for loading the stage's model."""
        return ModelOptions(
            device=device,
            backend=backend,
            precision=precision,
            model_dir=self.model_dir,
            cache_dir=self.model_cache_dir,
            lock=self.models_lock,
            key=self.models_key,
            threads=self.inference_threads,
        )

    def scheduler_limits(self, model: ModelInfo) -> SchedulerLimits:
        """Limits of the scheduler that serves this model."""
        # Tokens in one pass, and padding that costs less than another pass: measured on cpu (see `SchedulerLimits`);
        # on cuda, where a pass of thousands takes hardly longer than one of a hundred, chosen without a measurement.
        batch_tokens, padding_tokens = (16_384, 2_048) if model.device == "cuda" else (512, 16)
        if model.backend == "openvino":
            padding_tokens = 0  # the width of a row depends on nothing but the row: see `OpenVinoRuntime.width`
        return SchedulerLimits(
            batch_tokens=self.batch_tokens or batch_tokens,
            padding_tokens=padding_tokens,
            workers=(self.inference_threads or available_cpus()) if model.backend == "openvino" else 1,
            # ONNX Runtime computes one pass more than there are workers. OpenVINO computes one in each of its streams:
            # there, shorter passes keep the wait for a free one short, and cost little because starting one does.
            express=model.backend == "onnx",
            bulk_pass_seconds=0.012 if model.backend == "openvino" else 0.025,
            queued_tokens=self.queued_tokens,
            cache_entries=self.cache_entries,
        )
