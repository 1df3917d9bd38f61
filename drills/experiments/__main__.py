"""`make experiment-drill`: people say which ranking they prefer, and what is broken is stopped; build/experiments.json.

Simulated people (`people`) ask the real stack by the real client, click, and have their events recorded:

- `live`: dense against hybrid, interleaved and A/B, until the product decides by itself;
- `broken`: arms with one fault each, which the product has to stop, with its reason;
- `replay`: the users that each method needs at equal power, from the real answers, which are recorded once;
- `aa`: experiments without a difference, looked at after every event (drills/experiments/aa.py);
- `feedback`: forged, doubled, late and foreign events, kills of the control plane (drills/feedback).

It reads collections with known answers, which are no part of the product: --data FOLDER.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.quality.beir import Dataset
from deploy.local.paths import BUILD, ROOT, shown
from drills.experiments import race, regressions, results
from drills.experiments.answers import Recorded, recorded
from drills.experiments.asking import Crowd
from drills.experiments.live import Ended, plan, run
from drills.experiments.people import CLICK_MODELS
from drills.experiments.regressions import Stopped, stopped
from drills.experiments.replay import REPETITIONS
from drills.experiments.world import DATA, Collection, World, read, world
from services.chassis.errors import StartupError
from sluice_client import ExperimentMethod, SluiceError

ANSWERS = BUILD / "experiments-answers.json"
