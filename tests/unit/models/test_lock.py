"""The lock: what it says, what it refuses."""

import random

import pytest

from sluice_models import Artifact, FolderSource, HubSource, Lock, LockedModel, LockError, PackageSource
from sluice_models.files import File, listed, problems_of, recorded
from sluice_models.places import artifacts_in, locked, models_in

DIGEST = "ab" * 32
PACKAGE = PackageSource("carrier", "1.0", DIGEST, "carrier/model", "dequantize", "tokens", 12)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "org" / "small"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(random.Random(1).randbytes(4096))
    (folder / ".gitattributes").write_text("of no use")
    return folder


def test_a_lock_is_read_as_it_was_written():
    files = {'a "b" ü\x7f.json': File(3, DIGEST), "1_Pooling/config.json": File(0, DIGEST)}
    models = (
        LockedModel("org/a", files, PACKAGE, "Apache-2.0", ("org/another",)),
        LockedModel("org/b", files, HubSource("org/b", "5c38ec7"), "MIT"),
        LockedModel("c", files, FolderSource("/models/c")),
    )
    lock = Lock(models, {"a-int8": Artifact("a-int8", files)})
    text = lock.to_text()
    found = Lock.from_text(text)
    assert {model.name: model for model in found.models} == {model.name: model for model in models}
    assert found.artifacts == lock.artifacts
    assert found.to_text() == text


def test_a_model_is_found_by_its_whole_and_its_short_name():
    files = {"config.json": File(0, DIGEST)}
    lock = Lock(
        (
            LockedModel("org/small", files, PACKAGE, also=("org/tiny",)),
            LockedModel("other/small", files, PACKAGE),
            LockedModel("own", files, PACKAGE),
        )
    )
    for name, wanted in {
        "org/small": "org/small", "org/tiny": "org/small", "tiny": "org/small", "other/small": "other/small",
        "small": "org/small", "own": "own", "somebody/own": "own",
    }.items():  # fmt: skip
        assert lock.find(name).name == wanted
    assert lock.find("third/small") is None
    assert lock.find("large") is None


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda text: text.replace("format = 1", "format = 2"), "format is 2"),
        (lambda text: text.replace("format = 1", ""), "format is None"),
        (lambda text: text.replace('"config.json"', '"../config.json"'), "no path within a folder"),
        (lambda text: text.replace('"config.json"', '"/etc/passwd"'), "no path within a folder"),
        (lambda text: text.replace('name = "org/small"', 'name = "../small"'), "no path within a folder"),
        (lambda text: text.replace(DIGEST, "ab", 1), "no sha256"),
        (lambda text: text.replace("size = 0", "size = -1"), "no size"),
        (lambda text: text.replace('conversion = "dequantize"', 'conversion = "exec"'), "no conversion"),
        (lambda text: text + text.partition("\n\n")[2], "there twice"),
        (lambda text: text.replace("[model.files]", "[model.others]"), "makes no sense"),
        (lambda text: text[:-9], "makes no sense"),
    ],
)
def test_a_lock_that_makes_no_sense_is_refused(break_it, complaint):
    text = Lock((LockedModel("org/small", {"config.json": File(0, DIGEST)}, PACKAGE),)).to_text()
    Lock.from_text(text)
    with pytest.raises(LockError, match=complaint):
        Lock.from_text(break_it(text))


def test_what_is_changed_missing_or_added_is_named(model):
    files = recorded(model)
    assert set(files) == {"config.json", "1_Pooling/config.json", "model.safetensors"}
    assert problems_of(model, files) == []
    (model / "model.safetensors").write_bytes(bytes(4096))
    (model / "config.json").write_text("{}")
    (model / "1_Pooling" / "config.json").unlink()
    (model / "added_tokens.json").write_text("{}")
    assert problems_of(model, files) == [
        "added_tokens.json is on no list",
        "1_Pooling/config.json is missing",
        "config.json has another size",
        "model.safetensors has another checksum",
    ]
    assert "model.safetensors has another checksum" not in problems_of(model, files, sizes_only=True)


def test_a_link_to_a_folder_is_refused_and_one_to_a_file_is_followed(model, tmp_path):
    weights = model / "model.safetensors"
    blob = tmp_path / "blob"
    weights.rename(blob)
    weights.symlink_to(blob)
    assert "model.safetensors" in set(listed(model))
    (model / "2_Dense").symlink_to(tmp_path)
    with pytest.raises(LockError, match="link to a folder"):
        recorded(model)


def test_one_hundred_flipped_bits_of_a_model_are_refused(model):
    files, chance = recorded(model), random.Random(19)
    refused = 0
    for _ in range(100):
        path = model / chance.choice(sorted(files))
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        refused += bool(problems_of(model, files))
        path.write_bytes(whole)
    assert (refused, problems_of(model, files)) == (100, [])


def test_models_and_what_was_made_of_them_are_found_in_a_folder(model, tmp_path):
    (tmp_path / "org" / "alias").symlink_to("small")
    for name in ("small-encoder-int8-v2-aba7", "small-encoder-timings-a49f-v1-aba7"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "SHA256SUMS").write_text("")
    assert list(models_in(tmp_path)) == [("org/small", model)]
    assert list(models_in(model)) == [("small", model)]
    assert [one.name for one in artifacts_in(tmp_path)] == ["small-encoder-int8-v2-aba7"]


def test_a_model_that_is_locked_again_keeps_its_source_unless_it_is_another(model):
    (model / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n")
    first = locked("org/small", model, Lock())
    assert (first.licence, str(first.source)) == ("mit", f"folder {model}")
    before = Lock((LockedModel("org/small", first.files, PACKAGE, "Apache-2.0", ("org/tiny",)),))
    again = locked("small", model, before)
    assert again == before.models[0]
    (model / "config.json").write_text("{}")
    other = locked("small", model, before)
    assert (other.name, str(other.source), other.also) == ("org/small", f"folder {model}", ("org/tiny",))
    assert other.digest != again.digest
