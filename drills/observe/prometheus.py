"""A real Prometheus that scrapes the stages every two seconds, and promtool."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.local.paths import ROOT
from drills.parts.processes import PARENT_DEATH, reserve
from services.chassis.errors import StartupError
from tools import fetch_prometheus
from tools.debian import FetchError

RULES = ROOT / "deploy" / "prometheus" / "rules"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "tests"
SCRAPE_SECONDS = 2
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Sample:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """`async with Prometheus(targets, folder):` scrapes `{job: [host:port, ...]}` and evaluates our rules."""

    def __init__(self, targets: Mapping[str, Sequence[str]], folder: Path) -> None:
        self._targets = targets
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._reservation = reserve("127.0.0.1")
        self.address = f"127.0.0.1:{self._reservation.getsockname()[1]}"

    async def __aenter__(self) -> Self:
        program = programs() / "prometheus"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        configuration = self._folder / "prometheus.json"  # which is YAML, too
        configuration.write_text(json.dumps(self._configuration()), encoding="utf-8")
        self._reservation.close()
        with (self._folder / "log").open("wb") as log:
            self._child = subprocess.Popen(  # noqa: ASYNC220  which takes a millisecond
                [
                    *(sys.executable, "-I", "-S", str(PARENT_DEATH), str(os.getpid()), str(program)),
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self.address}",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def query(self, expression: str) -> list[Sample]:
        """An instant vector, or a scalar as one sample; raises ValueError where Prometheus refuses the expression."""
        data = await self._api("query", query=expression)
        if data["resultType"] in {"scalar", "string"}:
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    async def total(self, expression: str) -> float:
        """The sum of an instant vector; 0 where it is empty."""
        return sum(sample.value for sample in await self.query(expression))

    async def exemplars(self, expression: str) -> list[Mapping[str, str]]:
        """The labels of the exemplars of the last minutes."""
        now = time.time()
        data = await self._api("query_exemplars", query=expression, start=f"{now - 600:.0f}", end=f"{now + 60:.0f}")
        return [exemplar["labels"] for series in data for exemplar in series["exemplars"]]

    async def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health."""
        return [rule for group in (await self._api("rules"))["groups"] for rule in group["rules"]]

    async def scraped(self, times: int = 2) -> None:
        """Return when every target was scraped a number of times from now on."""
        await asyncio.sleep((times + 0.5) * SCRAPE_SECONDS)

    async def _api(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

        def read() -> Any:
            try:
                with urllib.request.urlopen(url, timeout=30) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                return json.load(error)

        answer = await asyncio.to_thread(read)
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    async def _ready(self) -> None:
        assert self._child is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                up = await self.query("up")
            except (OSError, ValueError):
                up = []
            if len(up) == sum(map(len, self._targets.values())) and all(sample.value for sample in up):
                return
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise StartupError(
                    f"Prometheus does not scrape every stage: {up}", remedy=f"Read {self._folder / 'log'}."
                )
            await asyncio.sleep(0.2)

    async def _stop(self) -> None:
        if self._child is not None:
            self._child.terminate()
            await asyncio.to_thread(self._child.wait)

    def _configuration(self) -> dict[str, Any]:
        seconds = f"{SCRAPE_SECONDS}s"
        return {
            "global": {"scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": seconds},
            "rule_files": [str(RULES / "*.yaml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in self._targets.items()
            ],
        }


def programs() -> Path:
    """Folder of `prometheus` and `promtool`; raises StartupError where they cannot be had."""
    try:
        return fetch_prometheus.folder()
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        raise StartupError(
            f"Prometheus could not be fetched: {error}",
            remedy="Install it (`apt-get install prometheus`), or put it and promtool into a folder of the PATH.",
        ) from error


async def promtool(*arguments: str) -> tuple[bool, str]:
    """Verdict of promtool, and its words."""
    process = await asyncio.create_subprocess_exec(
        programs() / "promtool", *arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode == 0, said.decode().strip()
