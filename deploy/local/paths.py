"""Paths of a working copy."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "deploy" / "profiles"
BUILD = ROOT / "build"


def run_folder(name: str) -> Path:
    """Return the folder with logs and state of a running stack."""
    return BUILD / "run" / name


def data_folder(profile: str) -> Path:
    """Return the folder with the data of a profile: an index belongs to one model, and so to one profile."""
    return BUILD / "data" / profile


def shown(path: Path) -> str:
    """Return a path for messages: relative to the working copy's root if it lies there."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
