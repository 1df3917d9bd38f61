"""Every command line that README and documentation show is run, or is one whose run is named here."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.documented import ROOT, shown_commands

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

COMMANDS = [command.line for command in shown_commands()]
MADE = [line for line in COMMANDS if line.startswith("make ")]
MODULES = [line for line in COMMANDS if ".venv/bin/python -m " in line]
SLUICE = [line for line in COMMANDS if re.search(r"\bsluice ", line) and line not in MADE]
ELSEWHERE = {
    "sluice plan calibrate": "tests/e2e/test_plan.py",
    "sluice plan --qps": "tests/unit/clients/test_plan.py",
    "sluice rollout status": "a live view; with --once it is run here",
    "sluice copy": "tests/contract/test_copy.py",
    "sluice audit": "tests/unit/clients/test_audit.py",
    "sluice evaluate": "tests/contract/test_evaluation.py",
    "sluice whatif": "tests/contract/test_evaluation.py",
    "sluice judgments": "tests/contract/test_judgments_command.py",
    "sluice experiment attach": "it needs an experiment; tests/contract has the files",
    "sluice models": "tests/unit/clients/test_models_command.py",
    "kubectl": "make k8s-check renders what it applies",
    "export": "no program",
}
SUCCEED = re.compile(
    r"sluice (index docs/|search(?!.*--filter)|answer|similar documents concepts.md|facets documents year|collections$"
    r"|documents list|config|enrich|verify|snapshot (create|list)"
    r"|rollout (plan|check|list|history$)|experiment (template|check|list)|feedback export)"
)
# A tenth of a percent of the load that is shown: the commands are tested here, not the machine.
SMALLER = [
    (re.compile(r"--requests \d+"), "--requests 8"),
    (re.compile(r"(sluice loadtest)(?!.*--requests)"), r"\1 --requests 8"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "docs").mkdir()
    for page in ("index.md", "concepts.md", "quickstart.md"):
        shutil.copy(ROOT / "docs" / page, folder / "docs" / page)
    line = '{"id": "a", "title": "Pools", "text": "A thread pool runs work in threads."}\n'
    (folder / "corpus.jsonl").write_text(line)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    (folder / "films.csv").write_text("imdb,plot,year\ntt1,A ship sinks.,1997\n")
    (folder / "question.json").write_text(json.dumps([0.05, -0.05] * 192))
    return folder


async def run(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run a line in a shell, without a terminal; return its exit code and all that it says."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-o", "pipefail", "-c", line),
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_every_line_of_the_command_is_understood_and_does_its_work(stored, folder):
    environment = {
        "SLUICE_GATEWAY": stored.stack.address("gateway"),
        "SLUICE_ROLLOUT": stored.stack.address("rollout"),
    }
    wrong = []
    for shown in SLUICE:
        if any(words in shown for words in ELSEWHERE) and "--once" not in shown:
            continue
        line = shown.replace(".venv/bin/sluice", "sluice")
        for pattern, smaller in SMALLER:
            line = pattern.sub(smaller, line)
        code, said = await run(line, folder, environment)
        if code == 2 or "fault of sluice" in said or "Traceback" in said or (SUCCEED.search(line) and code != 0):
            wrong.append(f"{shown}: exit code {code}\n{said[-800:]}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("line", MADE)
async def test_every_make_target_exists(line: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = shlex.split(line.partition("&&")[0])[1:]
    assert {word for word in named if "=" not in word} <= targets


@pytest.mark.parametrize("line", MODULES)
async def test_every_module_starts(line: str, folder: Path) -> None:
    module = re.search(r"-m (\S+)", line)
    assert module is not None
    code, said = await run(f"python -m {module[1]} --help", ROOT, {})
    assert code == 0, said
