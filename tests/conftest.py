"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# A slow example is a busy machine here, not a fault.
settings.register_profile("sluice", deadline=None)
settings.load_profile("sluice")
# Stages that a test starts time no engines, and compute the same on every processor.
for stage in ("EMBEDDING", "RERANK"):
    os.environ.setdefault(f"{stage}_BACKEND", "onnx")
# Workers of pytest-xdist have it set, and the command would take its output for a terminal's.
os.environ.pop("COLUMNS", None)
