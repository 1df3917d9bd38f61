from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind
from services.inference.models.resolver import ResolvedModel, resolve_model

ENCODER, CROSS_ENCODER = ModelKind.ENCODER, ModelKind.CROSS_ENCODER
SCORES_PAIRS = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"architectures": ["BertModel"]}))
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").touch()
    return folder


def write_snapshot(hub_cache: Path, whole_name: str) -> Path:
    repository = hub_cache / f"models--{whole_name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    return write_model(repository / "snapshots" / "abc123")


def resolve(name: str, kind: ModelKind = ENCODER, model_dir: Path | None = None) -> ResolvedModel:
    return resolve_model(name, kind, model_dir=model_dir, cache_dir=Path("/nonexistent"))


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "my-model")
    assert resolve(str(folder)) == ResolvedModel("my-model", ENCODER, folder, "path")


@pytest.mark.parametrize("place", ["all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"])
@pytest.mark.parametrize("name", ["all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"])
def test_the_model_directory_is_searched_by_short_and_by_whole_name(tmp_path: Path, place: str, name: str) -> None:
    folder = write_model(tmp_path / place)
    found = resolve(name, model_dir=tmp_path)
    assert found == ResolvedModel("sentence-transformers/all-mpnet-base-v2", ENCODER, folder, "model directory")


def test_the_short_name_of_a_cross_encoder_is_of_another_organization(tmp_path: Path) -> None:
    write_model(tmp_path / "ms-marco-electra-base", **SCORES_PAIRS)
    assert resolve("ms-marco-electra-base", CROSS_ENCODER, tmp_path).name == "cross-encoder/ms-marco-electra-base"


def test_the_hugging_face_cache_is_searched_without_a_network(hub_cache: Path) -> None:
    snapshot = write_snapshot(hub_cache, "sentence-transformers/all-mpnet-base-v2")
    assert resolve("all-mpnet-base-v2").folder == snapshot


def test_a_snapshot_that_is_not_whole_is_passed_over_and_reported(hub_cache: Path) -> None:
    (write_snapshot(hub_cache, "sentence-transformers/all-mpnet-base-v2") / "model.safetensors").unlink()
    with pytest.raises(StartupError, match=r"Hugging Face cache: .*it lacks weights"):
        resolve("all-mpnet-base-v2")


def test_the_cache_of_models_is_searched_after_the_model_directory(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "cache" / "sentence-transformers" / "all-mpnet-base-v2")
    found = resolve_model("all-mpnet-base-v2", ENCODER, model_dir=None, cache_dir=tmp_path / "cache")
    assert (found.folder, found.source) == (folder, "model cache")
    write_model(tmp_path / "all-mpnet-base-v2")
    found = resolve_model("all-mpnet-base-v2", ENCODER, model_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert found.source == "model directory"


def test_what_cannot_be_had_says_every_place_tried_and_what_to_do(tmp_path: Path, hub_cache: Path) -> None:
    with pytest.raises(StartupError) as caught:
        resolve("all-mpnet-base-v2", model_dir=tmp_path)
    assert caught.value.message == (
        "model sentence-transformers/all-mpnet-base-v2 cannot be found. Tried: "
        f"model directory: {tmp_path} has neither sentence-transformers/all-mpnet-base-v2 nor all-mpnet-base-v2; "
        "model cache: /nonexistent has neither sentence-transformers/all-mpnet-base-v2 nor all-mpnet-base-v2; "
        f"Hugging Face cache: {hub_cache} does not have it; "
        "hub: not asked, because HF_HUB_OFFLINE is set"
    )
    assert "hf download sentence-transformers/all-mpnet-base-v2" in caught.value.remedy
    assert "MODEL_DIR" in caught.value.remedy


def test_a_hub_that_fails_is_one_more_place_that_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: (_ for _ in ()).throw(ConnectionError("no route\nto host")))
    with pytest.raises(StartupError, match="hub: ConnectionError: no route"):
        resolve("all-mpnet-base-v2")


def test_a_name_that_no_hub_could_have_is_reported_like_any_other() -> None:
    with pytest.raises(StartupError, match="this is no name of a model there") as caught:
        resolve("folder/of/a model")
    assert "a path begins with" in caught.value.remedy


@pytest.mark.parametrize(
    ("part", "complaint"),
    [("config.json", "it lacks config.json"), ("model.safetensors", "weights"), ("tokenizer.json", "a tokenizer")],
)
def test_a_folder_that_the_operator_named_must_be_whole(tmp_path: Path, part: str, complaint: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / part).unlink()
    with pytest.raises(StartupError, match=complaint):
        resolve(str(folder))
    with pytest.raises(StartupError, match=complaint):
        resolve("model", model_dir=tmp_path)


def test_a_path_to_nothing_and_a_broken_configuration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no such folder"):
        resolve("./no/such/folder")
    folder = write_model(tmp_path / "model")
    (folder / "config.json").write_text("[")
    with pytest.raises(StartupError, match=r"config\.json cannot be read"):
        resolve(str(folder))


def test_an_encoder_is_no_cross_encoder_and_the_other_way_round(tmp_path: Path) -> None:
    encoder = write_model(tmp_path / "encoder")
    cross_encoder = write_model(tmp_path / "cross-encoder", **SCORES_PAIRS)
    with pytest.raises(StartupError, match=r"it is no cross-encoder: its config\.json says BertModel"):
        resolve(str(encoder), CROSS_ENCODER)
    with pytest.raises(StartupError, match=r"it is no encoder: its config\.json says BertForSequenceClassification"):
        resolve(str(cross_encoder), ENCODER)


def test_a_cross_encoder_with_several_outputs_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "nli", **SCORES_PAIRS | {"id2label": {"0": "yes", "1": "no", "2": "maybe"}})
    with pytest.raises(StartupError, match="it has 3 outputs"):
        resolve(str(folder), CROSS_ENCODER)
