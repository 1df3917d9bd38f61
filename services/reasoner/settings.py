"""Settings of the reasoner."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from services.chassis.settings import StageSettings
from services.reasoner.prompting import Prices, Room
from services.reasoner.writing import Limits


class ReasonerSettings(StageSettings):
    """The language model behind it, and what a call of it may take."""

    grpc_port: int = Field(50058, ge=0, le=65535, description="Port of the gRPC server; 0 lets the system choose.")
    reasoner_llm_url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Base URL of the server of a language model, as `http://127.0.0.1:11434` for Ollama; empty means "
        "none: all answers are extractive.",
    )
    reasoner_llm_api: Literal["openai", "ollama"] = Field(
        "ollama", description="API of that server: `openai` (`/v1/chat/completions`) or `ollama` (`/api/chat`)."
    )
    reasoner_llm_model: str = Field("llama3", min_length=1, description="Name of the model at that server.")
    reasoner_llm_key: SecretStr = Field(SecretStr(""), description="Key for that server; empty sends none.")
    reasoner_llm_seconds: float = Field(
        30.0, gt=0, le=3600, description="Most time of the model for one answer; the deadline may leave less. Seconds."
    )
    reasoner_llm_concurrency: int = Field(
        4, ge=1, le=1000, description="Most answers that the model makes at once; four times as many may wait."
    )
    reasoner_context_tokens: int = Field(
        8192, ge=512, le=2_000_000, description="Tokens of the model's context, for what it reads and writes."
    )
    reasoner_output_tokens: int = Field(
        1024, ge=256, le=32_768, description="Most tokens of a reply: quotes, answer and the JSON around them."
    )
    reasoner_prompt_price: float = Field(0.0, ge=0, description="Price of 1,000 tokens that the model reads.")
    reasoner_completion_price: float = Field(0.0, ge=0, description="Price of 1,000 tokens that it writes.")
    reasoner_breaker_failures: int = Field(
        5, ge=1, le=1000, description="Consecutive failures of the model after which it is not asked for a while."
    )
    reasoner_breaker_reset_seconds: float = Field(
        30, gt=0, le=3600, description="Time without questions to a failing model, until one call probes it. Seconds."
    )

    def limits(self) -> Limits:
        """Limits of the model."""
        return Limits(
            Room(self.reasoner_context_tokens, self.reasoner_output_tokens),
            Prices(self.reasoner_prompt_price, self.reasoner_completion_price),
            self.reasoner_llm_seconds,
            self.reasoner_llm_concurrency,
        )
