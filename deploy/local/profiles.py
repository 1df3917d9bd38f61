"""Profiles: `deploy/profiles/base.env`, and `<name>.env` with what differs; one `NAME=value` a line."""

from __future__ import annotations

from pathlib import Path

from deploy.local.paths import PROFILES, shown
from services.chassis.errors import StartupError

_BASE = "base"


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.env") if path.stem != _BASE)


def load_profile(name: str) -> dict[str, str]:
    """Return all variables of a profile. Raises StartupError if it does not exist or cannot be read."""
    if name not in profile_names():
        raise StartupError(f"there is no profile {name!r}", remedy=f"Choose one of: {', '.join(profile_names())}.")
    base = _read(PROFILES / f"{_BASE}.env")
    path = PROFILES / f"{name}.env"
    differences = _read(path)
    if unknown := sorted(set(differences) - set(base)):
        raise StartupError(
            f"{shown(path)}: not in {_BASE}.env: {', '.join(unknown)}", remedy=f"Add them to {_BASE}.env, too."
        )
    return {**base, **differences}


def _read(path: Path) -> dict[str, str]:
    variables: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        variable, separator, value = line.partition("=")
        if not separator or not variable.isidentifier() or variable in variables:
            raise StartupError(
                f"{shown(path)}:{number}: not a new NAME=value: {line!r}",
                remedy="Write every variable once, as NAME=value.",
            )
        variables[variable] = value
    return variables
