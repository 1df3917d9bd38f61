"""A server of a language model that says what a test tells it to, over a real socket.

It speaks the OpenAI-compatible API and Ollama's own, and streams as they do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Script:
    """The behaviour at one request."""

    parts: Sequence[str] = ()
    """Text, as it is streamed."""
    status: int = 200
    whole: bool = True
    """False for an answer that is cut off at the most tokens."""
    hangs: bool = False
    """True to stop after the parts, and say nothing more."""
    breaks: bool = False
    """True to close the connection after the parts."""
    raw: bytes = b""
    """Sent in place of all else, as the body."""


def reply(answer: Any, *citations: tuple[int, str], confidence: float = 0.9, **more: Any) -> Script:
    """A well-formed answer, streamed in pieces of a few characters."""
    written = {
        "citations": [{"passage": passage, "quote": quote} for passage, quote in citations],
        "answer": answer,
        "in_sources": True,
        "confidence": round(confidence * 100),
        **more,
    }
    text = json.dumps(written, ensure_ascii=False)
    return Script([text[start : start + 7] for start in range(0, len(text), 7)])


@dataclass
class ScriptedLLM:
    """The server, and what it was asked."""

    scripts: list[Script] = field(default_factory=list)
    """One for each request; the last one stays."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a caller closes its connection in the middle of an answer."""
    url: str = ""

    def prompt(self, number: int = -1) -> str:
        """All text of a request."""
        return "\n".join(message["content"] for message in self.requests[number]["messages"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers["content-length"]))
                self.paths.append(lines[0].split()[1])
                self.keys.append(headers.get("authorization", ""))
                self.requests.append(json.loads(body))
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await self._play(script, self.paths[-1], reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _play(
        self, script: Script, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(f"HTTP/1.1 {script.status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        streamed = [script.raw] if script.raw else _streamed(script, ollama=path.endswith("/api/chat"))
        try:
            for piece in streamed:
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
                await asyncio.sleep(0)
            if script.hangs and not await reader.read(1):
                raise ConnectionResetError
        except ConnectionError:
            self.left.set()
            raise
        if script.breaks:
            raise ConnectionAbortedError
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _streamed(script: Script, *, ollama: bool) -> list[bytes]:
    reason = "stop" if script.whole else "length"
    ends = not (script.hangs or script.breaks)
    if ollama:
        parts: list[dict[str, Any]] = [{"message": {"content": part}, "done": False} for part in script.parts]
        last = {"message": {"content": ""}, "done": True, "done_reason": reason}
        parts += [{**last, "prompt_eval_count": 120, "eval_count": 30}] * ends
        return [json.dumps(part).encode() + b"\n" for part in parts]
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": part}}]} for part in script.parts]
    chunks += [
        {"choices": [{"delta": {}, "finish_reason": reason}]},
        {"choices": [], "usage": {"prompt_tokens": 120, "completion_tokens": 30}},
    ] * ends
    lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return [*lines, b"data: [DONE]\n\n"] if ends else lines


@asynccontextmanager
async def scripted_llm(*scripts: Script) -> AsyncIterator[ScriptedLLM]:
    """A server on a free port that plays scripts, one a request."""
    served = ScriptedLLM(list(scripts))
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
