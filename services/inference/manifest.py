"""The manifest by which models are loaded: a lock, which says what each of their files has to be (docs/models.md).

Without one, a model is loaded as it is found, and that is logged. With one, a model that it does not list, or a file
that differs, keeps the stage from starting; so does a lock without the signature that a key asks for.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from services.chassis import logs
from services.chassis.errors import StartupError
from sluice_models import Lock, LockedModel, LockError, problems_of
from sluice_models.signing import check_signature

LOCK_VARIABLE = "MODELS_LOCK"
_KEY_BYTES = 32

_log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class Vouched:
    """A model of a lock, whose files are as the lock says."""

    lock: Path
    """File of the lock."""
    model: LockedModel
    artifacts: Lock
    """The lock itself, for what is made of the model."""

    def lists(self, folder: Path) -> bool:
        """True if the lock lists what was made of the model in this folder, and it is so."""
        found = self.artifacts.artifacts.get(folder.name)
        return found is not None and not problems_of(folder, found.files)

    def seal(self, name: str, sums: str) -> str:
        """Return the lines by which this user vouches for what was made: they name the model's entry in the lock."""
        said = f"{self.model.digest} {name}\n{sums}"
        return f"# model {self.model.digest}\n# seal {hmac.digest(_own_key(), said.encode(), 'sha256').hex()}\n"


def vouched(name: str, folder: Path, lock: Path | None, key: Path | None = None) -> Vouched | None:
    """Return the model if a lock vouches for it; None where there is no lock.

    `key` is the public key with which the lock has to be signed. Raises StartupError.
    """
    if lock is None:
        _log.info("no manifest vouches for this model", model=name, remedy="`sluice models lock`, and MODELS_LOCK")
        return None
    try:
        if key is not None:
            check_signature(lock, key)
        content = Lock.read(lock)
    except LockError as error:
        raise StartupError(
            f"MODELS_LOCK: {error}",
            remedy="Make it by `sluice models lock`, sign it where MODELS_KEY is set, or unset both to load any model.",
        ) from error
    if (found := content.find(name)) is None:
        raise StartupError(
            f"model {name} is not in {lock}",
            remedy=f"Look at where it comes from, then add it: `sluice models lock {folder}`; or unset MODELS_LOCK.",
        )
    if problems := problems_of(folder, found.files):
        raise StartupError(
            f"model {name} in {folder} is not what {lock} says: {'; '.join(problems[:5])}",
            remedy="Do not use these files. Bring the model again: `sluice models fetch`, then `sluice models verify`.",
        )
    return Vouched(lock.absolute(), found, content)


def inherited(name: str) -> Vouched | None:
    """Return what the process that started this one vouches for; it has checked the files of the model."""
    if not (lock := os.environ.get(LOCK_VARIABLE)):
        return None
    content = Lock.read(Path(lock))
    found = content.find(name)
    return Vouched(Path(lock), found, content) if found else None


def _own_key() -> bytes:
    """Return this user's key, which is made once and kept where only the user reads it."""
    home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    path = home / "sluice" / "models.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Whole or not at all: another process may begin at the same time.
            fresh = path.with_name(f".models.key-{os.getpid()}")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        if path.stat().st_mode & 0o077:
            raise StartupError(f"{path} can be read by others", remedy=f"Remove it, and look who did that: rm {path}")
        return path.read_bytes()
    except OSError as error:
        raise StartupError(
            f"{path} cannot be written: {error.strerror}",
            remedy="Set XDG_STATE_HOME to a folder that this process may write, or let the lock list what is made from "
            "models: `sluice models lock MODEL_CACHE_DIR`.",
        ) from error
