"""Models by manifest, as a stage loads them: what a lock vouches for, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.chassis.errors import StartupError
from services.inference.manifest import Vouched, inherited, vouched
from services.inference.models.artifacts import built_once
from services.inference.models.info import ModelKind
from services.inference.models.runtime import ModelOptions, load_runtime
from sluice_models import Artifact, FolderSource, Lock, LockedModel, recorded
from sluice_models.signing import sign

MODULE = "tests.unit.inference.models.make_artifact"


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's key of this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "hidden_size": 8}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"truncation_side": "left"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    return folder


@pytest.fixture
def lock(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "models.lock.toml"
    path.write_text(Lock((LockedModel("org/small", recorded(folder), FolderSource(str(folder))),)).to_text())
    return path


def load(folder: Path, lock: Path | None, key: Path | None = None) -> None:
    options = ModelOptions(backend="onnx", cache_dir=folder.parent / "cache", lock=lock, key=key)
    load_runtime(str(folder), ModelKind.ENCODER, options)


def test_a_model_that_the_lock_vouches_for_is_loaded(folder: Path, lock: Path) -> None:
    with pytest.raises(StartupError, match="its texts are changed or cut"):  # by what is in its files
        load(folder, lock)
    found = vouched("small", folder, lock)
    assert found is not None
    assert found.model.name == "org/small"


def test_without_a_lock_any_model_is_loaded_and_that_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vouched("small", folder, None) is None
    assert "no manifest vouches for this model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"[]"), "another checksum"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), r"added_tokens\.json is on no list"),
        (lambda folder: (folder / "modules.json").write_text("[]"), r"modules\.json is on no list"),
    ],
    ids=["weights", "tokens", "modules"],
)
def test_a_model_that_is_not_as_the_lock_says_keeps_the_stage_from_starting(
    folder: Path, lock: Path, change: Callable[[Path], object], complaint: str
) -> None:
    change(folder)
    with pytest.raises(StartupError, match=complaint) as refused:
        load(folder, lock)
    assert "sluice models verify" in refused.value.remedy


def test_a_model_that_the_lock_does_not_list_is_refused_with_the_way_to_list_it(folder: Path, lock: Path) -> None:
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    with pytest.raises(StartupError, match="model other is not in") as refused:
        load(other, lock)
    assert f"sluice models lock {other}" in refused.value.remedy


@pytest.mark.parametrize("content", [None, "no lock", "format = 1\n[[model]]\n"])
def test_a_lock_that_is_missing_or_broken_refuses_everything(folder: Path, lock: Path, content: str | None) -> None:
    lock.unlink() if content is None else lock.write_text(content, encoding="utf-8")
    with pytest.raises(StartupError, match="MODELS_LOCK"):
        load(folder, lock)


def test_where_a_key_is_set_a_lock_without_its_signature_refuses_everything(
    folder: Path, lock: Path, tmp_path: Path
) -> None:
    pair = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(pair.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    public.write_bytes(pair.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(StartupError, match="has no signature"):
        load(folder, lock, public)
    sign(lock, private)
    with pytest.raises(StartupError, match="its texts are changed or cut"):
        load(folder, lock, public)
    lock.write_text(lock.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(StartupError, match="signature"):
        load(folder, lock, public)


@pytest.fixture
def by(folder: Path, lock: Path) -> Vouched:
    found = vouched("small", folder, lock)
    assert found is not None
    return found


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Vouched | None], Path]:
    def build(by: Vouched | None) -> Path:
        log = tmp_path / "log"
        return built_once(
            tmp_path / "cache" / "artifact", MODULE, [str(log), "write"], needs=(), extra="", otherwise="", vouched=by
        )

    return build


def times_made(tmp_path: Path) -> int:
    return (tmp_path / "log").read_text(encoding="utf-8").count("made")


def forge(made: Path) -> None:
    """Put in other content, with the checksums that fit it and the lines that were there."""
    (made / "content").write_text("43")
    lines = [line for line in (made / "SHA256SUMS").read_text().splitlines() if line.startswith("#")]
    lines.append(f"{hashlib.sha256(b'43').hexdigest()}  content")
    (made / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def test_what_was_made_is_kept_and_other_content_with_fitting_checksums_is_made_again(
    build: Callable[[Vouched | None], Path], by: Vouched, tmp_path: Path
) -> None:
    made = build(by)
    assert (build(by), times_made(tmp_path)) == (made, 1)
    forge(made)
    assert build(None) == made
    assert times_made(tmp_path) == 1  # checksums beside the files do not tell
    build(by)
    assert ((made / "content").read_text(), times_made(tmp_path)) == ("42", 2)


def test_what_was_made_without_a_lock_or_of_another_model_is_made_again(
    build: Callable[[Vouched | None], Path], by: Vouched, tmp_path: Path
) -> None:
    build(None)
    build(by)
    assert times_made(tmp_path) == 2
    build(replace(by, model=replace(by.model, also=("org/another",))))
    assert times_made(tmp_path) == 3


def test_the_seal_of_another_user_does_not_count(
    build: Callable[[Vouched | None], Path], by: Vouched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(by)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another"))
    build(by)
    assert times_made(tmp_path) == 2


def test_what_the_lock_lists_is_taken_as_it_is_and_what_differs_is_made_again(
    build: Callable[[Vouched | None], Path], by: Vouched, tmp_path: Path
) -> None:
    made = build(None)
    listing = replace(by, artifacts=Lock((by.model,), {made.name: Artifact(made.name, recorded(made))}))
    assert (build(listing), times_made(tmp_path)) == (made, 1)
    forge(made)
    build(listing)
    assert ((made / "content").read_text(), times_made(tmp_path)) == ("42", 2)


def test_the_users_key_is_for_the_user_alone(by: Vouched, tmp_path: Path) -> None:
    by.seal("a", "b")
    (key,) = (tmp_path / "state" / "sluice").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    key.chmod(0o640)
    with pytest.raises(StartupError, match="can be read by others"):
        by.seal("a", "b")


def test_a_child_process_knows_the_lock_of_its_parent(by: Vouched, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inherited("small") is None
    monkeypatch.setenv("MODELS_LOCK", str(lock))
    found = inherited("small")
    assert found is not None
    assert found.seal("a", "b") == by.seal("a", "b")
