"""Models behind Ollama's own chat API, `/api/chat`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from services.chassis.errors import Unavailable
from services.reasoner.chat_server import ChatServer
from services.reasoner.language_model import Finished, Prompt


class OllamaChat:
    """A model that an Ollama serves."""

    def __init__(self, server: ChatServer, name: str, context_tokens: int) -> None:
        """`context_tokens` is the context that Ollama is to make room for; its own default is small."""
        self.name = name
        self._server = server
        self._context_tokens = context_tokens

    async def generate(self, prompt: Prompt, *, deadline: float) -> AsyncGenerator[str | Finished, None]:
        """See LanguageModel."""
        body = {
            "model": self.name,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "format": prompt.schema,
            "options": {"temperature": 0, "num_predict": prompt.most_tokens, "num_ctx": self._context_tokens},
            "stream": True,
        }
        async with aclosing(self._server.lines("/api/chat", body, deadline=deadline)) as lines:
            async for line in lines:
                if not line.strip():
                    continue
                part = _read(line)
                if text := (part.get("message") or {}).get("content"):
                    yield text
                if part.get("done"):
                    yield Finished(
                        part.get("done_reason") != "length", part.get("prompt_eval_count"), part.get("eval_count")
                    )
                    return
        raise Unavailable("the language model ended its answer in the middle")


def _read(line: str) -> dict[str, Any]:
    try:
        part = json.loads(line)
    except ValueError:
        part = None
    if not isinstance(part, dict) or "error" in part:
        raise Unavailable("the language model answered with an error")
    return part
