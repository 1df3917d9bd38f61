"""Models behind the OpenAI-compatible chat API, `/v1/chat/completions`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from services.chassis.errors import Unavailable
from services.reasoner.chat_server import ChatServer
from services.reasoner.language_model import Finished, Prompt

_DATA = "data:"


class OpenAIChat:
    """A model of a server with this API: OpenAI, vLLM, llama.cpp and many others."""

    def __init__(self, server: ChatServer, name: str) -> None:
        self.name = name
        self._server = server
        self._path = "/chat/completions" if server.url.endswith("/v1") else "/v1/chat/completions"

    async def generate(self, prompt: Prompt, *, deadline: float) -> AsyncGenerator[str | Finished, None]:
        """See LanguageModel."""
        body = {
            "model": self.name,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": prompt.schema}},
            "max_tokens": prompt.most_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reason = ""
        usage: dict[str, Any] = {}
        async with aclosing(self._server.lines(self._path, body, deadline=deadline)) as lines:
            async for line in lines:
                data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else ""
                if data == "[DONE]":
                    break
                if not data:
                    continue
                chunk = _read(data)
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or []:
                    reason = choice.get("finish_reason") or reason
                    if text := (choice.get("delta") or {}).get("content"):
                        yield text
        if not reason:
            raise Unavailable("the language model ended its answer in the middle")
        yield Finished(reason != "length", usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _read(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict) or "error" in chunk:
        raise Unavailable("the language model answered with an error")
    return chunk
