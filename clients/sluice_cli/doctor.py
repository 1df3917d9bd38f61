"""`sluice doctor`: what is wrong, and what to do about it. Asks the gateway, looks at this machine, changes nothing."""

from __future__ import annotations

import asyncio
import enum
import os
import platform
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text
from sluice_client import CollectionConfig, Config, Features, Outcome, SluiceClient, SluiceError, Stage, Strategy
from sluice_client import StageConfig as StageState

from sluice_cli import machine
from sluice_cli.calls import DONE, NEEDS_A_LOOK, Connection, plain, print_json, remedy_of, stdout

# Enough to see that every stage does its work, little enough to be no burden.
PROBE_CANDIDATES = 4


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    status: Status
    subject: str
    finding: str
    remedy: str = ""
