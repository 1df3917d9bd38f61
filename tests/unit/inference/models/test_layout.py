from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.inference.models.info import ModelKind
from services.inference.models.layout import UnknownModelError, fingerprint_of, read_spec, read_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"hidden_size": 8, "max_position_embeddings": 512, "transformers_version": "4.8.2"})
    )
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
        lambda folder: (folder / "config.json").write_text(
            '{"transformers_version": "5.0", "max_position_embeddings": 512, "hidden_size": 8}'
        ),
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


def test_the_limit_is_the_models_own_or_else_the_least_of_tokenizer_and_positions(folder: Path) -> None:
    assert read_spec(folder, ModelKind.ENCODER).max_token_count == 512
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 384}')
    assert read_spec(folder, ModelKind.ENCODER).max_token_count == 384
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert read_spec(folder, ModelKind.ENCODER).max_token_count == 128


def test_prompts_are_found_under_the_names_that_models_use(folder: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    assert read_spec(folder, ModelKind.ENCODER).prompts == {"query": "query: ", "document": "passage: "}
    about = {"prompts": {"all": "read: "}, "default_prompt_name": "all"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(about))
    assert read_spec(folder, ModelKind.ENCODER).prompts == {"query": "read: ", "document": "read: "}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("tokenizer_config.json", '{"truncation_side": "left"}', "changed or cut"),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "changed or cut"),
        ("config.json", '{"hidden_size": 8}', "after how many tokens"),
    ],
)
def test_a_model_that_its_files_do_not_explain_is_refused(
    folder: Path, name: str, content: str, complaint: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UnknownModelError, match=complaint):
        read_spec(folder, ModelKind.ENCODER)


def test_a_tokenizer_that_another_file_contradicts_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"normalizer": {"type": "BertNormalizer", "lowercase": true}}')
    assert read_tokenizer(folder).startswith('{"normalizer"')
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(UnknownModelError, match="lower case"):
        read_tokenizer(folder)
