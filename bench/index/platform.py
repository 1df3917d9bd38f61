"""The three stages that indexing needs, as real processes, and the command as another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.speed.stages import own_environment, serving
from deploy.local.paths import ROOT


@dataclass(frozen=True, slots=True)
class Indexed:
    """Result of a run of the command."""

    seconds: float
    """From its start to its end as a process."""
    documents: int
    passages: int
    peak_mib: float
    """The most memory that the command had at once: its largest resident set."""


@contextmanager
def platform(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Embedder, retriever (embedded engine, empty) and gateway; the gateway's address."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as data, ExitStack() as stack:
        variables = {"QDRANT_URL": "", "QDRANT_PATH": data, **(environment or {})}
        addresses = {
            f"{stage.upper()}_ADDRESS": stack.enter_context(serving(stage, variables)).address
            for stage in ("embedder", "retriever")
        }
        yield stack.enter_context(serving("gateway", {**variables, **addresses})).address


def index(gateway: str, source: Path, collection: str) -> Indexed:
    """Run `sluice index` to its end. Raises CalledProcessError where that is no good one."""
    command = [sys.executable, "-m", "sluice_cli.main", "--gateway", gateway, "index", str(source)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        child = subprocess.Popen(
            [*command, "--collection", collection, "--json"], cwd=ROOT, env=own_environment({}), stdout=told
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if child.returncode != 0:
            raise subprocess.CalledProcessError(child.returncode, command)
        told.seek(0)
        outcome = json.load(told)
    return Indexed(seconds, outcome["stored"], outcome["passages"], usage.ru_maxrss / 1024)
