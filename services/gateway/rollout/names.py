"""Names and salts in a snapshot."""

from __future__ import annotations

import re

_PLAIN_NAME = re.compile(r"[a-z0-9-]{1,64}")
_MOST_TEXT = 256


def check_name(what: str, name: str) -> None:
    """Raise ValueError for a name that is none."""
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{what} is not made of 1 to 64 lower case letters, digits and dashes")


def check_text(what: str, text: str) -> None:
    """Raise ValueError for a salt, or the name of a run, that is too long or would not stay apart from what follows."""
    if len(text) > _MOST_TEXT or "\x1f" in text:
        raise ValueError(f"its {what} is longer than {_MOST_TEXT} characters, or holds a separator (0x1f)")
