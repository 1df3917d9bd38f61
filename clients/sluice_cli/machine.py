"""The doctor's look at this machine: Python, packages, memory, disk, and what stages would find here at start."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from sluice_cli.operations.checks import Check, Status, fail, ok, warn

GIB = 2**30
# Rules of thumb for small models on one machine, not measurements.
MEMORY_WANTED, MEMORY_NEEDED = 2 * GIB, GIB // 2
DISK_WANTED, DISK_NEEDED = 2 * GIB, GIB // 4
START_SECONDS = 120
# The distributions, and what pip installs them from: the services from their checkout.
_SOURCES = {"sluice-retrieval": "sluice-retrieval", "sluice-services": "-e ."}
_NOT_FOR_USERS = {"dev", "run", "inference"}  # the last is part of the needs of embedder and reranker
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[.*?\])?(?P<pin>[=>]=)?(?P<version>[\d.]*)(?:.*extra == ['\"](?P<extra>[\w-]+)['\"])?"
)
# Run in a process of its own: what stages stand on is none of the command's business, and may not be installed.
_AT_START = """
import json
from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from services.chassis.settings import load_settings
from services.embedder.settings import EmbedderSettings
from services.expander.lexicon import locate_wordnet
from services.expander.settings import ExpanderSettings
from services.reranker.settings import RerankerSettings

def model(settings_type, field, kind, without=""):
    settings = load_settings(settings_type)
    name = getattr(settings, field)
    if not name:
        return f"{without}, by choice: {field.upper()} is empty"
    found = resolve_model(name, kind, model_dir=settings.model_dir, cache_dir=settings.model_cache_dir)
    return f"{found.name}, from {found.source}"

for subject, look in {
    "embedding model": lambda: model(EmbedderSettings, "embedding_model", ModelKind.ENCODER, "pseudo-embeddings"),
    "token model": lambda: model(EmbedderSettings, "token_model", ModelKind.TOKENS, "none"),
    "rerank model": lambda: model(RerankerSettings, "rerank_model", ModelKind.CROSS_ENCODER),
    "wordnet": lambda: f"in {locate_wordnet(load_settings(ExpanderSettings).wordnet_dir)}",
}.items():
    try:
        finding = {"subject": subject, "finding": look()}
    except StartupError as error:
        finding = {"subject": subject, "finding": error.message, "remedy": error.remedy}
    print("CHECK " + json.dumps(finding))
"""


def machine_checks() -> Iterator[Check]:
    """Python, packages, memory and disk."""
    yield ok("python", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} processors")
    for distribution in _SOURCES:
        if _installed_version(distribution) is not None:
            yield from package_checks(distribution, metadata.requires(distribution) or [], _installed_version)
    yield memory_check(_available_memory())
    yield disk_check(Path.cwd(), shutil.disk_usage(Path.cwd()).free)


def start_checks() -> Iterator[Check]:
    """Models and WordNet as stages that are started here, with this environment, would find them.

    A model that has to be unpacked first is unpacked, as its stage would do at its start.
    """
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter, a text of ours
            [sys.executable, "-c", _AT_START],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        findings = [json.loads(line[6:]) for line in done.stdout.splitlines() if line.startswith("CHECK ")]
        problem = (done.stderr.strip().splitlines() or ["no answer"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        findings, problem = [], f"no answer in {START_SECONDS} s"
    for finding in findings:
        yield Check(Status.WARN if "remedy" in finding else Status.OK, **finding)
    if problem:
        yield warn("models", f"could not be looked for: {problem}", "set up this machine: make setup")


def package_checks(
    distribution: str, requirements: Sequence[str], installed: Callable[[str], str | None]
) -> Iterator[Check]:
    """One check for what everything needs, and one for each part that can be installed by itself."""
    parts: dict[str, list[re.Match[str]]] = defaultdict(list)
    for requirement in requirements:
        if (found := _REQUIREMENT.match(requirement)) and found["extra"] not in _NOT_FOR_USERS:
            parts[found["extra"] or ""].append(found)
    for part, wanted in sorted(parts.items()):
        subject = f"{distribution}[{part}]" if part else distribution
        present = {found["name"]: installed(found["name"]) for found in wanted}
        wrong = [found for found in wanted if not _serves(present[found["name"]], found["pin"], found["version"])]
        if not wrong:
            yield ok(subject, ", ".join(f"{name} {version}" for name, version in present.items()))
            continue
        finding = ", ".join(_lack(found, present[found["name"]]) for found in wrong)
        if part:
            yield warn(
                subject, finding, f"needed only where that part runs: pip install {_SOURCES[distribution]}'[{part}]'"
            )
        else:
            yield fail(subject, finding, f"pip install --upgrade {_SOURCES[distribution]}")


def memory_check(available: int | None) -> Check:
    """Check memory for the services; None where it is not known."""
    if available is None:
        return ok("memory", "not known on this system")
    finding = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_NEEDED:
        return fail("memory", finding, "stop something, or run the services elsewhere")
    if available < MEMORY_WANTED:
        return warn("memory", finding, "enough to ask; stages that run models here may want more")
    return ok("memory", finding)


def disk_check(folder: Path, free: int) -> Check:
    """Check room for models and an index."""
    finding = f"{free / GIB:.1f} GiB free in {folder}"
    if free < DISK_NEEDED:
        return fail("disk", finding, "make room before storing anything")
    if free < DISK_WANTED:
        return warn("disk", finding, "make room for models and an index")
    return ok("disk", finding)


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _serves(version: str | None, pin: str | None, wanted: str) -> bool:
    if version is None or not pin:
        return version is not None
    here, there = _release(version), _release(wanted)
    return here == there if pin == "==" else here >= there


def _release(version: str) -> list[int]:
    """The numbers of a release, as in 2.13.0+cpu, without trailing zeros."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    release = [int(number) for number in numbers[0].split(".")] if numbers else []
    while release and release[-1] == 0:
        release.pop()
    return release


def _lack(found: re.Match[str], version: str | None) -> str:
    return f"{found['name']} {version or 'is not installed'}" + (
        f" (wanted: {found['pin']}{found['version']})" if version else ""
    )


def _available_memory() -> int | None:
    """Bytes that this machine, or the cgroup around us, still has to give."""
    try:
        info = Path("/proc/meminfo").read_text(encoding="utf-8")
        available = int(info.split("MemAvailable:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None
    try:
        cgroup = Path("/sys/fs/cgroup")
        granted = int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no cgroup, or no limit
        return available
    return min(available, granted)
