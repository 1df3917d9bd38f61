"""Profiles: `deploy/profiles/<name>.env`, one `NAME=value` a line, the rest of a line taken as it stands."""

from __future__ import annotations

from deploy.local.paths import PROFILES, shown
from services.chassis.errors import StartupError


def profile_names() -> list[str]:
    """Every profile there is."""
    return sorted(path.stem for path in PROFILES.glob("*.env"))


def load_profile(name: str) -> dict[str, str]:
    """The variables of a profile. Raises StartupError for one that does not exist or cannot be read."""
    if name not in profile_names():
        raise StartupError(f"there is no profile {name!r}", remedy=f"Choose one of: {', '.join(profile_names())}.")
    path = PROFILES / f"{name}.env"
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
