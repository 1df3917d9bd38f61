"""Plain sentence-transformers behind a minimal server: what one writes when no server is at hand.

Run in a folder of its own by peers.py: `python peer_sentence_transformers.py MODEL_FOLDER PORT`. One text a request as
JSON, its vector as bytes. Calls take turns, because several forward passes at once are slower than one after another.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn  # type: ignore[import-not-found]  # of the peer's own folder
from sentence_transformers import SentenceTransformer


def main(folder: str, port: int) -> None:
    """Serve until it is stopped."""
    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    turns = ThreadPoolExecutor(1)

    def encode(text: str) -> bytes:
        return model.encode([text], show_progress_bar=False, normalize_embeddings=True).tobytes()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        vector = await asyncio.get_running_loop().run_in_executor(turns, encode, body.decode() or "healthy")
        head = [(b"content-length", str(len(vector)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": vector})

    uvicorn.run(serve, host="127.0.0.1", port=port, lifespan="off", access_log=False, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
