from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.inference.models.info import fingerprint_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "transformers_version": "4.8.2"}))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("about")
    return folder


def test_a_copy_elsewhere_and_later_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another name"
    shutil.copytree(folder, copy)
    os.utime(copy / "model.safetensors", (0, 0))
    assert fingerprint_of(copy) == fingerprint_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text('{"transformers_version": "5.0", "hidden_size": 8}'),
        lambda folder: (folder / "README.md").write_text("more about"),
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"the same weights in the format that is not used"),
    ],
    ids=["written by another version", "readme", "second format"],
)
def test_what_does_not_reach_the_output_does_not_count(folder: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint_of(folder)
    change(folder)
    assert fingerprint_of(folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"])
def test_what_decides_the_output_counts(folder: Path, name: str) -> None:
    before = fingerprint_of(folder)
    (folder / name).write_text('{"changed": true}')
    assert fingerprint_of(folder) != before
