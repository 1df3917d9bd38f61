"""Signatures of locks, in the format of OpenSSF's model signing, by a key pair of elliptic curves.

They lie beside the lock, as `models.lock.toml.sig`. Needs the package `model-signing` (extra `signing`).
"""

from __future__ import annotations

from pathlib import Path

from sluice_models.files import LockError


def signature_of(lock: Path) -> Path:
    """Return the place of a lock's signature."""
    return lock.with_name(f"{lock.name}.sig")


def sign(lock: Path, private_key: Path) -> Path:
    """Sign a lock with a private key in PEM; return the file of the signature. Raises LockError."""
    try:
        from model_signing import signing  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _missing() from error
    target = signature_of(lock)
    try:
        config = signing.Config()  # type: ignore[no-untyped-call]  # untyped upstream
        config.use_elliptic_key_signer(private_key=private_key).sign(lock, target)
    except Exception as error:  # of many kinds
        raise LockError(f"{lock} was not signed with {private_key}: {_first_line(error)}") from error
    return target


def check_signature(lock: Path, public_key: Path) -> None:
    """Raise LockError unless the lock has a signature by the private key that goes with this public one."""
    try:
        from model_signing import verifying  # noqa: PLC0415  an extra
    except ImportError as error:
        raise _missing() from error
    signature = signature_of(lock)
    if not signature.is_file():
        raise LockError(f"{lock} has no signature {signature.name}")
    try:
        config = verifying.Config()  # type: ignore[no-untyped-call]  # untyped upstream
        config.use_elliptic_key_verifier(public_key=public_key).verify(lock, signature)
    except Exception as error:  # of many kinds
        raise LockError(f"the signature of {lock} is not by {public_key}: {_first_line(error)}") from error


def _missing() -> LockError:
    return LockError("signatures need the package model-signing (extra `signing`), which is not installed here")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
