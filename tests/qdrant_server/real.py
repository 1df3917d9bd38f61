"""A real Qdrant server that takes part in tests and drills."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RealQdrant:
    """A Qdrant server that takes part in tests and drills."""

    url: str
    """Its HTTP address: QDRANT_TEST_URL."""
    grpc_port: int
    """QDRANT_TEST_GRPC_PORT, 6334 by default."""

    @classmethod
    def from_environment(cls) -> Self | None:
        """The server that the environment names, or None."""
        url = os.environ.get("QDRANT_TEST_URL")
        return cls(url, int(os.environ.get("QDRANT_TEST_GRPC_PORT", "6334"))) if url else None

    @property
    def grpc_target(self) -> str:
        """Host and gRPC port."""
        return f"{urlsplit(self.url).hostname}:{self.grpc_port}"
