"""State of the stack that `up` started, for later commands."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.paths import run_folder
from deploy.local.processes import Process
from deploy.local.stack import LocalStack
from services.chassis.errors import StartupError

NAME = "local"
"""Name of the stack that `up` starts: only one, since its ports are fixed."""


@dataclass(frozen=True)
class Running:
    """One stage that was started."""

    process: Process
    address: str
    metrics_url: str
    log: Path


@dataclass(frozen=True)
class Started:
    """Stack that was started."""

    profile: str
    stages: Mapping[str, Running]

    @classmethod
    def of(cls, stack: LocalStack) -> Started:
        """Describe a started stack."""
        placements = stack.placements()
        return cls(
            stack.profile,
            {
                stage: Running(process, placements[stage].address, placements[stage].metrics_url, placements[stage].log)
                for stage, process in stack.processes().items()
            },
        )

    @property
    def processes(self) -> dict[str, Process]:
        """Process of every stage."""
        return {name: stage.process for name, stage in self.stages.items()}

    def dead(self) -> list[str]:
        """Return the stages that have ended."""
        return [name for name, process in self.processes.items() if not process.alive]


def _file() -> Path:
    return run_folder(NAME) / "state.json"


def write(started: Started) -> None:
    """Write the state."""
    _file().write_text(json.dumps(asdict(started), indent=2, default=str) + "\n", encoding="utf-8")


def forget() -> None:
    """Delete the state: no stage is running."""
    _file().unlink(missing_ok=True)


def read() -> Started | None:
    """Return the state if one of its stages still runs, else None."""
    try:
        written = json.loads(_file().read_text(encoding="utf-8"))
        started = Started(
            written["profile"],
            {
                name: Running(Process(**stage["process"]), stage["address"], stage["metrics_url"], Path(stage["log"]))
                for name, stage in written["stages"].items()
            },
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StartupError(
            f"{_file()} is damaged: {error}", remedy="Stop what listens on ports 50051 to 50055, and delete the file."
        ) from error
    return started if len(started.dead()) < len(started.stages) else None


@contextmanager
def alone() -> Iterator[None]:
    """Hold a lock against a second `up` or `down`. Raises StartupError if one is under way."""
    folder = run_folder(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError("another `up` or `down` is under way", remedy="Wait until it is done.") from None
        yield
