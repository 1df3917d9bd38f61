"""Ollama's own chat API in front of an OpenAI-compatible server, for tests of `/api/chat` with a real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx


@asynccontextmanager
async def ollama_in_front_of(url: str) -> AsyncIterator[str]:
    """Serve `/api/chat` on a free port; yield the base URL."""
    async with httpx.AsyncClient(timeout=None) as client:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                async for part in _answered(client, url, asked):
                    writer.write(json.dumps(part).encode() + b"\n")
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


async def _answered(client: httpx.AsyncClient, url: str, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    body = {
        "model": asked["model"],
        "messages": asked["messages"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": asked["format"]}},
        "max_tokens": asked["options"]["num_predict"],
        "temperature": asked["options"]["temperature"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reason, usage = "", {}
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            data = line.removeprefix("data:").strip()
            if not data or data == "[DONE]":
                continue
            chunk = json.loads(data)
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                reason = choice.get("finish_reason") or reason
                if text := choice["delta"].get("content"):
                    yield {"message": {"role": "assistant", "content": text}, "done": False}
    yield {
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
        "prompt_eval_count": usage.get("prompt_tokens"),
        "eval_count": usage.get("completion_tokens"),
    }
