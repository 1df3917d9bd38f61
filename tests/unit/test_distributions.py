"""The projects of this repository: contents of their wheels, versions, dependencies."""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

import sluice_client
from deploy.local.paths import ROOT

CLIENT, COMMAND = ROOT / "packaging" / "sluice-client", ROOT / "packaging" / "sluice-retrieval"


def built(project: Path, target: Path) -> zipfile.ZipFile:
    (wheel,) = WheelBuilder(str(project)).build(directory=str(target), versions=["standard"])
    return zipfile.ZipFile(wheel)


def packages(wheel: zipfile.ZipFile) -> set[str]:
    return {room for name in wheel.namelist() if not (room := name.split("/")[0]).endswith(".dist-info")}


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_bytes(wheel.read(name))


def project_table(project: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        (CLIENT, {"sluice", "sluice_client"}),
        (COMMAND, {"sluice_cli", "sluice_judgments", "sluice_models", "sluice_plan", "sluice_statistics"}),
        (ROOT, set()),
    ],
    ids=["sluice-client", "sluice-retrieval", "sluice-services"],
)
def test_a_wheel_holds_its_packages_the_license_and_nothing_else(
    project: Path, expected: set[str], tmp_path: Path
) -> None:
    wheel = built(project, tmp_path)
    assert packages(wheel) == expected
    assert metadata(wheel)["License-Expression"] == "Apache-2.0"
    (license_file,) = [name for name in wheel.namelist() if name.endswith("LICENSE")]
    assert wheel.read(license_file) == (ROOT / "LICENSE").read_bytes()
    # Typed, and in the release that the services report.
    assert {f"{package}/py.typed" for package in expected} <= set(wheel.namelist())
    assert metadata(wheel)["Version"] == sluice_client.__version__


def test_the_client_needs_grpc_its_messages_and_the_details_of_errors_alone(tmp_path: Path) -> None:
    needs = metadata(built(CLIENT, tmp_path)).get_all("Requires-Dist") or []
    assert names(needs) == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_a_checkout_has_what_both_distributions_need() -> None:
    command, root = project_table(COMMAND), project_table(ROOT)
    run = names(root["dependencies"]) | expanded(root["optional-dependencies"], "run")
    dev = run | expanded(root["optional-dependencies"], "dev")
    assert names(command["dependencies"]) - {"sluice-client"} <= run
    extras = {name: needs for name, needs in command["optional-dependencies"].items() if name not in FRAMEWORKS}
    assert names(need for needs in extras.values() for need in needs) <= dev


FRAMEWORKS = {"spacy", "gliner"}
"""Extras that bring gigabytes, for extractors that whoever uses them installs."""


def names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


def expanded(extras: dict[str, list[str]], extra: str) -> set[str]:
    """Names of all packages of an extra and of the extras that it includes."""
    included = [
        name for need in extras[extra] if need.startswith("sluice-services[") for name in need[16:-1].split(",")
    ]
    return names(extras[extra]).union(*(expanded(extras, name) for name in included))
