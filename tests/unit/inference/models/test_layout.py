from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.inference.models.info import ModelKind
from services.inference.models.layout import (
    UnknownModelError,
    check_feeding,
    fingerprint_of,
    problem_of,
    read_spec,
    read_tokenizer,
)


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


@pytest.mark.parametrize("place", ["", "2_Dense"])
def test_weights_that_only_unpickling_could_read_are_refused(folder: Path, place: str) -> None:
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    (folder / place).mkdir(exist_ok=True)
    (folder / place / "pytorch_model.bin").write_bytes(b"a pickle")
    if not place:
        assert problem_of(folder, ModelKind.ENCODER) is None
        (folder / "model.safetensors").unlink()
    assert "model.safetensors" in str(problem_of(folder, ModelKind.ENCODER))


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "added_tokens.json",
        "sentence_roberta_config.json",
        "sentence_xlm-roberta_config.json",
        "1_Pooling/config.json",
        "0_Router/router_config.json",
        "0_Router/query_0_Dense/config.json",
        "0_Router/query_0_Dense/model.safetensors",
        "document_0_WordEmbeddings/wordembedding_config.json",
        "a folder of another name/model.safetensors",
    ],
)
def test_what_decides_the_output_counts(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{}")
    (folder / "modules.json").write_text('[{"path": "a folder of another name", "type": "models.Dense"}]')
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


@pytest.mark.parametrize(
    ("name", "content", "kind", "complaint"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.Router", "path": ""}], ModelKind.ENCODER, "Router"),
        ("modules.json", [{"type": "sentence_transformers.models.Asym", "path": ""}], ModelKind.ENCODER, "Asym"),
        ("sentence_bert_config.json", {"query_length": 16}, ModelKind.ENCODER, "query_length is 16"),
        ("sentence_roberta_config.json", {"document_length": 64}, ModelKind.ENCODER, "document_length is 64"),
        ("sentence_roberta_config.json", {"do_lower_case": True}, ModelKind.ENCODER, "changed or cut"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, ModelKind.ENCODER, "a SparseEncoder"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"rank": "Rank: "}, "default_prompt_name": "rank"},
            ModelKind.CROSS_ENCODER,
            "default prompt",
        ),
    ],
)
def test_a_model_that_is_fed_in_another_way_than_here_is_refused(
    folder: Path, name: str, content: object, kind: ModelKind, complaint: str
) -> None:
    check_feeding(folder, kind)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(UnknownModelError, match=complaint):
        check_feeding(folder, kind)


def test_a_prompt_that_is_not_pooled_is_refused_where_there_is_a_prompt(folder: Path) -> None:
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling", "type": "models.Pooling"}]')
    (folder / "1_Pooling" / "config.json").write_text('{"include_prompt": false}')
    check_feeding(folder, ModelKind.ENCODER)
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Find: "}}')
    with pytest.raises(UnknownModelError, match="include_prompt"):
        check_feeding(folder, ModelKind.ENCODER)


def test_a_limit_is_read_under_each_name_that_sentence_transformers_knows(folder: Path) -> None:
    (folder / "sentence_roberta_config.json").write_text('{"max_seq_length": 12}')
    assert read_spec(folder, ModelKind.ENCODER).max_token_count == 12


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert problem_of(folder, ModelKind.ENCODER) is None
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert problem_of(folder, ModelKind.ENCODER) == "it lacks model-00002-of-00002.safetensors"


def test_files_are_read_as_utf_8_under_every_locale(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes('{"vocab": "東京 – straße"}'.encode())  # noqa: RUF001  on purpose
    program = f"""
from pathlib import Path
from services.inference.models.layout import read_tokenizer
print(ascii(read_tokenizer(Path({str(folder)!r}))))
"""
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", program],
        env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == ascii('{"vocab": "東京 – straße"}').encode()  # noqa: RUF001  on purpose


def write_tensors(folder: Path, **shapes: list[int]) -> None:
    header = json.dumps({name: {"dtype": "F32", "shape": shape} for name, shape in shapes.items()}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("BertModel", ModelKind.ENCODER),
        ("HF_ColBERT", ModelKind.TOKENS),
        ("BertForSequenceClassification", ModelKind.CROSS_ENCODER),
    ],
)
def test_a_model_serves_as_its_own_kind_alone(folder: Path, architecture: str, kind: ModelKind) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture], "num_labels": 1}))
    assert problem_of(folder, kind) is None
    for other in set(ModelKind) - {kind}:
        assert str(problem_of(folder, other)).endswith(f": its config.json says {architecture}")


def test_the_dimension_of_a_late_interaction_model_is_that_of_its_projection_or_else_the_first_128(
    folder: Path,
) -> None:
    about = {"hidden_size": 384, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(about))
    write_tensors(folder, **{"embeddings.weight": [30522, 384]})
    assert read_spec(folder, ModelKind.TOKENS).dimension == 128
    without = fingerprint_of(folder)
    write_tensors(folder, **{"embeddings.weight": [30522, 384], "linear.weight": [96, 384]})
    assert read_spec(folder, ModelKind.TOKENS).dimension == 96
    assert fingerprint_of(folder) != without
    (folder / "config.json").write_text(json.dumps(about | {"hidden_size": 64}))
    write_tensors(folder, **{"embeddings.weight": [30522, 64]})
    assert read_spec(folder, ModelKind.TOKENS).dimension == 64


def test_lengths_of_a_late_interaction_model_are_chosen_here(folder: Path) -> None:
    write_tensors(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 31, "query_length": 32}')
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "MultiVectorEncoder"}')
    (folder / "artifact.metadata").write_text('{"query_token_id": "[unused0]", "attend_to_mask_tokens": false}')
    assert read_spec(folder, ModelKind.TOKENS).max_token_count == 512


@pytest.mark.parametrize(
    ("setting", "value"),
    [("attend_to_mask_tokens", True), ("query_token_id", "[Q]"), ("doc_token_id", "[D]")],
)
def test_a_late_interaction_model_that_is_fed_in_another_way_is_refused(
    folder: Path, setting: str, value: object
) -> None:
    (folder / "artifact.metadata").write_text(json.dumps({setting: value}))
    with pytest.raises(UnknownModelError, match=f"its artifact.metadata says {setting}"):
        check_feeding(folder, ModelKind.TOKENS)
