"""The contents of images: packages by hash, images of others by digest, and a list of all that is in one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.docker import pinning
from deploy.docker.contents import contents, debian_packages
from deploy.docker.images import BASE, IMAGES
from deploy.local.paths import ROOT
from deploy.stages import STAGES
from sluice_models import Lock
from tools.packages.audit_packages import judged
from tools.packages.requirements import FILES, FOLDER, problems_of

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize("name", FILES)
def test_the_packages_of_an_image_are_those_of_the_project_in_its_versions_each_by_hash(name: str) -> None:
    assert list(problems_of(name, FOLDER / f"{name}.txt")) == []


def test_every_image_and_every_engine_has_its_packages() -> None:
    assert {image.service for image in IMAGES} | {"openvino", "torch", "int8", "build"} <= set(FILES)


def test_nothing_is_installed_in_an_image_without_its_hash() -> None:
    installed = [
        line for line in DOCKERFILE.replace("\\\n", " ").split("&&") if re.search(r"pip\S* .*\binstall\b", line)
    ]
    assert len(installed) >= 4
    for line in installed:
        assert "--require-hashes" in line or "--no-index" in line, line


_IMPORTING = """
import sys
from importlib.metadata import packages_distributions

allowed, module = set(sys.argv[1].split()), sys.argv[2]
owners = {
    room: {name.lower().replace("_", "-").replace(".", "-") for name in names}
    for room, names in packages_distributions().items()
}

class Refusing:
    def find_spec(self, name, path=None, target=None):
        room = name.partition(".")[0]
        if room in owners and not owners[room] & allowed and room not in ("services", "sluice"):
            raise ModuleNotFoundError(f"{room} is not in the image", name=name)

sys.meta_path.insert(0, Refusing())
__import__(module)
"""


@pytest.mark.parametrize("stage", [spec.name for spec in STAGES])
def test_a_stage_imports_only_the_packages_of_its_image(stage: str) -> None:
    text = (FOLDER / f"{stage}.txt").read_text(encoding="utf-8")
    names = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    allowed = " ".join(re.sub(r"[-_.]+", "-", name).lower() for name in names)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING, allowed, f"services.{stage}.__main__"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "protos" / "gen", ROOT / "clients")))},
    )
    assert done.returncode == 0, done.stderr[-400:]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: re.sub(r"^grpcio==.*?(?=^\S)", "", text, flags=re.MULTILINE | re.DOTALL), "lacks grpcio"),
        (lambda text: re.sub(r"^grpcio==[^ ]+", "grpcio==1.0", text, flags=re.MULTILINE), "has grpcio 1.0"),
        (lambda text: f"{text}other==1.0\n", "without a hash"),
    ],
    ids=["missing", "another version", "no hash"],
)
def test_a_list_of_packages_that_is_not_as_it_has_to_be_is_named(change, complaint: str, tmp_path: Path) -> None:
    file = FOLDER / ".broken-for-a-test.txt"
    try:
        file.write_text(change((FOLDER / "gateway.txt").read_text(encoding="utf-8")), encoding="utf-8")
        assert any(complaint in problem for problem in problems_of("gateway", file))
    finally:
        file.unlink()


def test_the_images_of_others_that_are_named_can_all_be_pinned() -> None:
    named = {name for file in pinning.FILES for name in pinning.references(file.read_text(encoding="utf-8"))}
    assert BASE.partition("@")[0] in named
    assert {name.partition(":")[0] for name in named} == {
        "debian", "qdrant/qdrant", "prom/prometheus", "grafana/grafana", "jaegertracing/jaeger",
        "ollama/ollama",
    }  # fmt: skip
    compose = (ROOT / "deploy" / "docker" / "compose.yaml").read_text(encoding="utf-8")
    others = set(re.findall(r"^    image: ([^$\s]+)$", compose, re.MULTILINE))
    assert {name.partition("@")[0] for name in others} <= named


def test_a_digest_is_written_behind_the_tag_and_replaced_when_it_is_another(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("image: qdrant/qdrant:v1.20.0-unprivileged\nimage: sluice/gateway:0.1.0\n")
    for digest in (DIGEST, DIGEST.replace("ab", "cd")):
        pinning.write(file, {"qdrant/qdrant:v1.20.0-unprivileged": digest})
        assert file.read_text() == f"image: qdrant/qdrant:v1.20.0-unprivileged@{digest}\nimage: sluice/gateway:0.1.0\n"
    pinning.write(file, {})
    assert pinning.references(file.read_text()) == {"qdrant/qdrant:v1.20.0-unprivileged": DIGEST.replace("ab", "cd")}


def test_the_contents_of_an_image_are_its_packages_debians_and_the_models(tmp_path: Path) -> None:
    listed = tmp_path / "packages.json"
    words = ["environment", "--output-format", "JSON", "--output-file", str(listed), sys.executable]
    subprocess.run([sys.executable, "-m", "cyclonedx_py", *words], check=True, capture_output=True)
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u9\n"
        "Description: GNU C Library\n one: more\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    lock = Lock.read(ROOT / "models.lock.toml")
    found = contents("embedder", json.loads(listed.read_text(encoding="utf-8")), status, lock)
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == ("CycloneDX", "sluice-embedder")
    parts = {part["name"]: part for part in found["components"]}
    assert {"grpcio", "libc6", "sentence-transformers/all-MiniLM-L6-v2"} <= set(parts)
    assert "gone" not in parts
    assert parts["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64"
    model = parts["sentence-transformers/all-MiniLM-L6-v2"]
    assert model["licenses"] == [{"license": {"name": "Apache-2.0"}}]
    assert {part["name"] for part in model["components"]} >= {"config.json", "model.safetensors"}
    references = [part["bom-ref"] for part in found["components"]]
    assert len(references) == len(set(references))


def test_debians_own_list_of_packages_is_read() -> None:
    status = Path("/var/lib/dpkg/status")
    if not status.is_file():
        pytest.skip("no Debian here")
    names = {part["name"] for part in debian_packages(status.read_text(encoding="utf-8"))}
    assert "libc6" in names


@pytest.mark.parametrize(
    ("answer", "words", "status", "said"),
    [
        ("", "ERROR: no route\nConnectionError: no such host", 2, "no such host"),
        ("", "ERROR: package a has duplicate requirements", 1, "duplicate requirements"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}', "", 2, "does not answer"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', "", 0, "1 of 1 packages audited, 0"),
        (
            '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}]}',
            "",
            1,
            "a 1: X-1, fixed in 2",
        ),
    ],
    ids=["unreachable", "a fault", "unknown to it", "fine", "vulnerable"],
)
def test_an_audit_fails_for_vulnerabilities_and_not_for_a_database_that_is_away(
    answer: str, words: str, status: int, said: str
) -> None:
    found, text = judged(answer, words)
    assert found == status
    assert said in text
