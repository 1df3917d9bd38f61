"""List what an image holds: `python contents.py SERVICE PACKAGES STATUS LOCK TARGET`.

PACKAGES is CycloneDX's list of Python's packages, as cyclonedx-py writes it; STATUS is dpkg's file of Debian's
packages; LOCK names the models. TARGET is the list with all of these, in CycloneDX.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sluice_models import Lock

Component = dict[str, Any]


def debian_packages(status: str) -> Iterator[Component]:
    """Yield a component for each installed package of dpkg's status file."""
    for paragraph in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status") != "install ok installed":
            continue
        name, version, kind = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={kind}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def models(lock: Lock) -> Iterator[Component]:
    """Yield a component for each model, with its files."""
    for model in lock.models:
        files = [
            {"type": "file", "name": path, "hashes": [{"alg": "SHA-256", "content": file.sha256}]}
            for path, file in sorted(model.files.items())
        ]
        licences = [{"license": {"name": model.licence}}] if model.licence else []
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{model.name}",
            "name": model.name,
            "description": f"from the {model.source}",
            "licenses": licences,
            "components": files,
        }


def contents(service: str, packages: dict[str, Any], status: str, lock: Lock) -> dict[str, Any]:
    """Return the whole list."""
    root = {"type": "container", "bom-ref": "image", "name": f"sluice-{service}"}
    parts = [*packages.get("components", ()), *debian_packages(status), *models(lock)]
    metadata = {**packages.get("metadata", {}), "component": root}
    return {**packages, "metadata": metadata, "components": parts, "dependencies": packages.get("dependencies", [])}


if __name__ == "__main__":
    name, *sources, target = sys.argv[1:]
    listed, dpkg, locked = map(Path, sources)
    whole = contents(
        name,
        json.loads(listed.read_text(encoding="utf-8")),
        dpkg.read_text(encoding="utf-8"),
        Lock.read(locked),
    )
    Path(target).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
