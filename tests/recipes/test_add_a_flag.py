"""CONTRIBUTING's recipe "Add a flag", applied to a scratch copy with the flag `phrases`."""

from __future__ import annotations

import sys

import pytest

from sluice.type.v1.features_pb2 import Features
from tests.recipes.scratch import Scratch

MOST_FILES = 5
FREE_NUMBER = max(field.number for field in Features.DESCRIPTOR.fields) + 1
DECLARATION = f"""  // Keep only passages that hold the query as a phrase.
  optional bool phrases = {FREE_NUMBER} [(flag) = {{
    help: "Keep only passages that hold the query as a phrase."
    variable: "PHRASES_ENABLED"
    stage: STAGE_RETRIEVE
  }}];
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A copy of the repository with one flag more."""
    copy = Scratch(tmp_path_factory.mktemp("flag"))
    last = '    stage: STAGE_RERANK\n    refines: "rerank"\n    least: 1\n    most: 1000\n  }];\n'
    copy.insert("protos/sluice/type/v1/features.proto", last, DECLARATION)
    copy.insert(
        "services/gateway/search/flags.py", "    rerank_candidate_count: int = 50\n", "    phrases: bool = False\n"
    )
    copy.run("python", "tools/protos.py")
    copy.run("python", "tools/settings_table.py")
    return copy


def test_it_touches_at_most_five_files(scratch: Scratch, capsys: pytest.CaptureFixture[str]) -> None:
    changed = scratch.changed()
    with capsys.disabled():
        sys.stdout.write(f"\nadd a flag: {len(changed)} files, generated ones included\n")
        sys.stdout.writelines(f"  {name}\n" for name in changed)
    assert len(changed) <= MOST_FILES


def test_client_command_and_gateway_know_it(scratch: Scratch) -> None:
    scratch.run(
        "python",
        "-c",
        """
from typer.testing import CliRunner
from services.gateway.settings import GatewaySettings
from sluice_cli.main import app
from sluice_client import Features

assert GatewaySettings(phrases_enabled=True).default_features().phrases
assert Features(phrases=True).HasField("phrases")
shown = CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "200"}).output
assert "--phrases" in shown, shown
""",
    )


def test_a_flag_that_is_declared_and_not_wired_fails_one_test_that_says_so(scratch: Scratch) -> None:
    wired = scratch.folder / "services/gateway/search/flags.py"
    complete = wired.read_text()
    wired.write_text(complete.replace("    phrases: bool = False\n", ""))
    try:
        with pytest.raises(
            AssertionError, match=r"declare each flag of features\.proto in services/gateway/search/flags"
        ):
            scratch.run("python", "-m", "pytest", "-q", "tests/unit/gateway/search/test_flags.py")
    finally:
        wired.write_text(complete)


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("mypy", "-p", "services.gateway", "-p", "sluice_client", "-p", "sluice_cli"),
        ("lint-imports",),
        ("buf", "lint"),
        ("python", "tools/protos.py", "--check"),
        ("python", "tools/settings_table.py", "--check"),
        ("python", "tools/metrics_table.py", "--check"),
    ],
    ids=" ".join,
)
def test_lint_passes(scratch: Scratch, command: tuple[str, ...]) -> None:
    scratch.run(*command)


@pytest.mark.timeout(600)  # a thousand tests, of which each has its own limit
def test_contract_tests_and_those_of_flags_pass(scratch: Scratch) -> None:
    scratch.run(
        *("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        *("tests/unit/experiment", "tests/unit/gateway", "tests/unit/rollout", "tests/unit/clients"),
        *("tests/unit/test_profiles.py", "tests/contract"),
    )
