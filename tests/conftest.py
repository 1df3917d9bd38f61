"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# A slow example is a busy machine here, not a fault.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")
