"""Look the packages of images up in a database of vulnerabilities: `python tools/packages/audit_packages.py`.

Asks as pip-audit does, for all packages in deploy/docker/requirements. The exit status is 1 if one is known to be
vulnerable, or if pip-audit fails. Where the database cannot be reached that is said, and it is 0, or 2 with `--strict`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "docker" / "requirements"
UNREACHABLE = 2
"""Status where nothing could be looked up."""
_SECONDS = 300
_PIN = re.compile(r"^[A-Za-z0-9._-]+==[^\s\\;]+", re.MULTILINE)
_AWAY = re.compile(r"ConnectionError|NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strict", action="store_true", help="fail where the database cannot be reached")
    strict = parser.parse_args().strict
    pins = {pin for file in FOLDER.glob("*.txt") for pin in _PIN.findall(file.read_text(encoding="utf-8"))}
    words = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "packages.txt")
        listed.write_text("\n".join(sorted(pins)) + "\n", encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", "--requirement", str(listed), *words],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            status, text = judged(done.stdout, done.stderr)
        except subprocess.TimeoutExpired:
            status, text = UNREACHABLE, f"Packages were not audited: no answer within {_SECONDS} s."
    print(text)
    return 0 if status == UNREACHABLE and not strict else status


def judged(answer: str, words: str) -> tuple[int, str]:
    """Return the exit status, and what to say of pip-audit's answer."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, LookupError, TypeError):
        last = (words.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return UNREACHABLE if _AWAY.search(words) else 1, f"Packages were not audited: {last}"
    known = [package for package in packages if "vulns" in package]
    if not known:
        return UNREACHABLE, "Packages were not audited: the database does not answer for any of them."
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in known
        for found in package["vulns"]
    ]
    summary = f"{len(known)} of {len(packages)} packages audited, {len(set(lines))} vulnerabilities."
    return int(bool(lines)), "\n".join([*sorted(set(lines)), summary])


if __name__ == "__main__":
    sys.exit(main())
