"""Where things lie in a working copy."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "deploy" / "profiles"
BUILD = ROOT / "build"


def run_folder(name: str) -> Path:
    """Logs and state of a running stack."""
    return BUILD / "run" / name


def data_folder(profile: str) -> Path:
    """What a profile's stacks keep. An index belongs to the model that made it, and so to the profile."""
    return BUILD / "data" / profile


def shown(path: Path) -> str:
    """A path as people want to read it: from the working copy's root, where it lies in there."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
