"""Generated sections of Markdown files: the lines between two comments."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def write(name: str, content: str, *, file: Path = README, check: bool = False) -> None:
    """Write the section, or with `check` exit if it is out of date."""
    begin, end = f"<!-- {name}: made by `make docs` -->", f"<!-- /{name} -->"
    before = file.read_text(encoding="utf-8")
    section = f"{begin}\n{content}\n{end}"
    after = re.sub(f"{re.escape(begin)}.*{re.escape(end)}", lambda _: section, before, flags=re.DOTALL)
    if section not in after:
        sys.exit(f"{file.name} has no `{begin}` ... `{end}`")
    if check and after != before:
        sys.exit(f"{file.name}'s section {name} is out of date; run `make docs`")
    file.write_text(after, encoding="utf-8")
