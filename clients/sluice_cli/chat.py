"""Language models behind OpenAI-compatible servers, asked for JSON, within a budget."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem

_SECONDS, _CHARACTERS_A_TOKEN = 120.0, 3


class Spent(Exception):
    """Raised when the budget has no room for more."""


class Budget:
    """Tokens, or what they cost, that may be spent."""

    def __init__(self, most: float | None, prices: str = "") -> None:
        """Without `prices`, of 1,000 tokens that are read and 1,000 that are written, `most` is in tokens."""
        self._most = most
        try:
            self._read, self._written = (float(price) / 1000 for price in prices.split(",")) if prices else (1.0, 1.0)
        except ValueError:
            raise Problem(
                f"--extractor-prices is {prices!r}", "give two numbers, as 0.15,0.6", exit_code=WRONG_COMMAND_LINE
            ) from None
        self._priced = bool(prices)
        self._lock = threading.Lock()
        self._reserved = self._spent = 0.0
        self.tokens = 0

    def reserve(self, read: int, written: int) -> float:
        """Set the price of so many tokens aside; return it. Raises Spent."""
        price = read * self._read + written * self._written
        with self._lock:
            if self._most is not None and self._spent + self._reserved + price > self._most:
                raise Spent(f"the budget of {self._most:g} has no room for more; {self}")
            self._reserved += price
        return price

    def settle(self, reserved: float, read: int, written: int) -> None:
        """Replace what was set aside by what was used."""
        with self._lock:
            self._reserved -= reserved
            self._spent += read * self._read + written * self._written
            self.tokens += read + written

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens" + (f", which cost {self._spent:.4g}," if self._priced else "") + " were used"


class ChatModel:
    """A model of a server; any number of threads may ask it."""

    def __init__(self, name: str, url: str, key: str, budget: Budget, *, remedy: str) -> None:
        """`remedy` is said where the server does not answer."""
        self.name = name
        self.budget = budget
        self._remedy = remedy
        self._httpx = imported("httpx")
        self._client: Any = self._httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"),
            timeout=_SECONDS,
            headers={"authorization": f"Bearer {key}"} if key else {},
        )

    def ask(self, system: str, user: str, *, name: str, schema: Mapping[str, Any], most_tokens: int) -> str:
        """Return what the model writes: JSON of the schema if the server keeps to it. Raises Spent, Problem."""
        expected = (len(system) + len(user)) // _CHARACTERS_A_TOKEN
        reserved = self.budget.reserve(expected, most_tokens)
        used = (expected, most_tokens)
        request = {
            "model": self.name,
            "temperature": 0,
            "max_tokens": most_tokens,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}},
        }
        try:
            reply = self._client.post("/v1/chat/completions", json=request)
            reply.raise_for_status()
            said: Mapping[str, Any] = reply.json()
            content: str = said["choices"][0]["message"]["content"] or ""
            usage = said.get("usage") or {}
            used = (usage.get("prompt_tokens", expected), usage.get("completion_tokens", most_tokens))
        except (self._httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise Problem(
                f"the language model does not answer: {type(error).__name__}: {error}", self._remedy
            ) from None
        finally:
            self.budget.settle(reserved, *used)
        return content


def imported(module: str) -> Any:
    """Import a module of an extra. Raises Problem."""
    try:
        return __import__(module)
    except ImportError:
        extra = "llm" if module == "httpx" else module
        raise Problem(f"{module} is not installed", f"pip install 'sluice-retrieval[{extra}]'") from None
