"""Servers of language models over HTTP, whose answers come line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from services.chassis.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, SluiceError, Unavailable
from services.chassis.timing import remaining

_CONNECT_SECONDS = 5.0
_REMEDIES = {
    401: "; check REASONER_LLM_KEY",
    403: "; check REASONER_LLM_KEY",
    404: "; check REASONER_LLM_URL, REASONER_LLM_API and REASONER_LLM_MODEL",
}


class ChatServer:
    """A server at a base URL, perhaps with a key. Close it at the end."""

    def __init__(self, url: str, key: str, *, connections: int) -> None:
        self.url = url
        # Without a name and password, which a URL may have.
        self._named = f"the language model at {httpx.URL(url).scheme}://{httpx.URL(url).netloc.decode()}"
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # A connection that cannot be made is tried once more. Nothing was sent, so nothing is paid twice.
            transport=httpx.AsyncHTTPTransport(
                retries=1, limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
            ),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def lines(self, path: str, body: Mapping[str, Any], *, deadline: float) -> AsyncGenerator[str, None]:
        """Send a request and yield the lines of the answer; closing the generator closes the connection.

        Raises Unavailable, ResourceExhausted and DeadlineExceeded. No error quotes what was sent or answered.
        """
        timeout = httpx.Timeout(remaining(deadline), connect=min(_CONNECT_SECONDS, remaining(deadline)))
        request = self._client.build_request("POST", self.url + path, json=body, timeout=timeout)
        response = None
        try:
            async with asyncio.timeout(remaining(deadline)):
                response = await self._client.send(request, stream=True)
            if response.status_code != httpx.codes.OK:
                raise self._refusal(response.status_code)
            lines = response.aiter_lines()
            while True:
                async with asyncio.timeout(remaining(deadline)):
                    line = await anext(lines, None)
                if line is None:
                    return
                yield line
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            raise DeadlineExceeded(f"{self._named} did not end in time") from None
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Unavailable(f"{self._named} cannot be reached; is it running?") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the connection to {self._named} broke: {type(error).__name__}") from None
        finally:
            if response is not None:
                await response.aclose()

    def _refusal(self, status: int) -> SluiceError:
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return ResourceExhausted(f"{self._named} is busy (HTTP 429)")
        message = f"{self._named} answered HTTP {status}{_REMEDIES.get(status, '')}"
        # What it does not like of one request says nothing of the next: no breaker counts it.
        of_request = httpx.codes.is_client_error(status) and status not in _REMEDIES
        return FailedPrecondition(message) if of_request else Unavailable(message)
