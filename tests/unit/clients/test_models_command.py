"""`sluice models`, on real folders."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.local.paths import ROOT
from sluice_cli.main import app
from sluice_models import Lock, PackageSource


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "models" / "org" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(64))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path / "models"))

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["models", *map(str, words)])
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_what_was_locked_is_verified_until_a_file_differs(run, folder, tmp_path):
    assert "org/small: 2 files" in run("lock", tmp_path / "models", "--licence", "MIT")
    assert "whole" in run("verify")
    (folder / "model.safetensors").write_bytes(bytes(63) + b"\1")
    assert "model.safetensors has another checksum" in run("verify", code=1)
    found = json.loads(run("verify", "small", "--json", code=1))
    assert found["models"][0]["problems"] == ["model.safetensors has another checksum"]


def test_a_model_that_is_damaged_is_brought_again(run, folder, tmp_path):
    run("lock", folder, "--name", "org/small")
    copies = tmp_path / "copies"
    assert "fetched into" in run("fetch", "--folder", copies)
    (copies / "org" / "small" / "config.json").write_text("[]")
    assert "fetched into" in run("fetch", "small", "--folder", copies)
    assert "whole in" in run("fetch", "--folder", copies)
    assert (copies / "org" / "small" / "config.json").read_text() == "{}"


def test_a_model_that_is_not_there_counts_only_where_it_was_asked_for(run, folder, tmp_path):
    run("lock", folder)
    assert "not here" in run("verify", "--folder", tmp_path / "nowhere")
    assert "not in" in run("verify", "small", "--folder", tmp_path / "nowhere", code=1)
    assert "no model large" in run("verify", "large", code=3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--hub", "org/small"], "go together"),
        (["--name", "org/small", "."], "for one model"),
    ],
)
def test_wrong_options_are_refused(run, folder, words, complaint):
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "config.json").write_text("{}")
    assert complaint in run("lock", folder.parent, *words, code=2)


def test_a_folder_without_models_is_told(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no model" in run("lock", tmp_path / "empty", code=3)


def test_the_lock_of_this_repository_has_every_model_of_the_images_with_a_licence():
    lock = Lock.read(ROOT / "models.lock.toml")
    assert {model.name for model in lock.models} == {
        "answerdotai/answerai-colbert-small-v1",
        "cross-encoder/ms-marco-MiniLM-L-12-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
    }
    for model in lock.models:
        assert isinstance(model.source, PackageSource)
        assert model.licence == "Apache-2.0"
    assert lock.to_text() == Path(ROOT / "models.lock.toml").read_text(encoding="utf-8")
