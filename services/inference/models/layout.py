"""Files of a model folder in Hugging Face's layout: weights, configuration, tokenizer, and a checksum of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.inference.models.info import ModelKind, ModelSpec
from services.inference.models.tokenization import PASSAGE_MARKER, QUERY_MARKER

_CONFIGURATION = re.compile(
    r"(config|modules|config_sentence_transformers|router_config|adapter_config|sentence_[\w-]+_config)\.json"
)
_TOKENIZER = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|.+\.model"
)
# As sentence-transformers names the folder of a module, and within a router that of a module of one of its routes.
_MODULE_FOLDER = re.compile(r"(.+_)?\d+_\w+")
# Files with the settings of the transformer's module, in the order in which sentence-transformers looks for them.
_OWN_SETTINGS = [
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
# Settings that make a text's tokens depend on its role, in ways that are not computed here.
_ROLE_SETTINGS = ("query_length", "document_length", "query_expansion")
_ROUTERS = {"Router", "Asym"}
_OTHER_KINDS = {"SparseEncoder", "MultiVectorEncoder"}
# Written by tools about themselves: copies of a model that differ only here are the same model.
_VOLATILE = {"_name_or_path", "transformers_version", "__version__", "torch_dtype", "dtype"}
# Settings of a late interaction model (ColBERT's artifact.metadata) and their only values that are computed here.
_LATE_SETTINGS = {"query_token_id": QUERY_MARKER, "doc_token_id": PASSAGE_MARKER, "attend_to_mask_tokens": False}
# The projection of a late interaction model, [dimension, hidden]; without it the first of the hidden dimensions serve.
PROJECTION = "linear.weight"
_MOST_STATE_DIMENSIONS = 128
# Prompts of a model for each role, in the order in which sentence-transformers looks for them.
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}


_NOUNS = {
    ModelKind.ENCODER: "encoder",
    ModelKind.CROSS_ENCODER: "cross-encoder",
    ModelKind.TOKENS: "late interaction model (ColBERT)",
}


class UnknownModelError(Exception):
    """A model that cannot be served from its files alone; the message says why, beginning with "its" or "it"."""


def transformer_folder(folder: Path) -> Path:
    """Return the folder of weights and tokenizer, which older sentence-transformers models keep apart."""
    return room if (room := folder / "0_Transformer").is_dir() else folder


def weight_files(folder: Path) -> list[Path]:
    """List the weights in a folder, which are safetensors: PyTorch's older format is a pickle, and may hold code."""
    return sorted(folder.glob("*.safetensors"))


def problem_of(folder: Path, kind: ModelKind) -> str | None:
    """Explain why a folder cannot serve as a model of this kind; None if it can."""
    if not folder.is_dir():
        return "there is no such folder"
    room = transformer_folder(folder)
    if missing := [*_missing_parts(room), *_pickled_weights(folder)]:
        return f"it lacks {' and '.join(missing)}"
    try:
        config = read_json(room / "config.json")
        architecture = (config.get("architectures") or ["no architecture"])[0]
        outputs = len(config.get("id2label") or ()) or config.get("num_labels", 2)
    except (ValueError, AttributeError, TypeError, OSError):
        return "its config.json cannot be read"
    if kind is not _kind_of(architecture):
        return f"it is no {_NOUNS[kind]}: its config.json says {architecture}"
    if kind is ModelKind.CROSS_ENCODER and outputs != 1:
        return f"it has {outputs} outputs for a pair (num_labels), where a reranker needs exactly 1"
    return None


def _kind_of(architecture: str) -> ModelKind:
    if architecture.endswith("ForSequenceClassification"):
        return ModelKind.CROSS_ENCODER
    return ModelKind.TOKENS if architecture.endswith("ColBERT") else ModelKind.ENCODER


def _missing_parts(room: Path) -> Iterator[str]:
    if not (room / "config.json").is_file():
        yield "config.json"
    if not (weights := weight_files(room)):
        yield "weights (model.safetensors; PyTorch's older format may hold code, and is not read)"
    for index in room.glob("*.safetensors.index.json") if weights else ():
        yield from sorted({name for name in read_json(index)["weight_map"].values() if not (room / name).is_file()})
    if not any((room / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        yield "a tokenizer (tokenizer.json)"


def _pickled_weights(folder: Path) -> Iterator[str]:
    for room in _module_folders(folder):
        if not weight_files(room) and any(room.glob("pytorch_model*.bin")):
            yield f"{room.relative_to(folder)}/model.safetensors (PyTorch's older format is not read)"


def fingerprint_of(folder: Path) -> str:
    """Compute the sha256 over weights, configuration, tokenizer, pooling and normalization.

    Independent of the folder's name, of times, and of the versions of libraries that wrote the files.
    """
    digest = hashlib.sha256()
    for room in [folder, *sorted(_module_folders(folder))]:
        for file in sorted(room.iterdir()):
            if _TOKENIZER.fullmatch(file.name) or file in weight_files(room):
                part = file_digest(file)
            elif _CONFIGURATION.fullmatch(file.name) or (room != folder and file.suffix == ".json"):
                content = read_json(file)
                if isinstance(content, dict):
                    content = {key: value for key, value in content.items() if key not in _VOLATILE}
                part = json.dumps(content, sort_keys=True)
            else:
                continue
            digest.update(f"{file.relative_to(folder)}\0{part}\0".encode())
    return digest.hexdigest()


def _module_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders of modules, those within others included."""
    named = {module.get("path", "").split("/")[0] for module in read_json(folder / "modules.json", [])}
    for room in folder.iterdir():
        if room.is_dir() and (room.name in named or _MODULE_FOLDER.fullmatch(room.name)):
            yield room
            yield from _module_folders(room)


def file_digest(file: Path) -> str:
    """Compute the sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(file: Path, default: Any = None) -> Any:
    """Parse a JSON file; `default`, if given, stands for a file that is not there."""
    return default if default is not None and not file.is_file() else json.loads(file.read_text(encoding="utf-8"))


def check_feeding(folder: Path, kind: ModelKind) -> None:
    """Raise UnknownModelError if texts would reach this model in another way than in sentence-transformers.

    No engine can serve such a model: all of them are fed by the same code.
    """
    room = transformer_folder(folder)
    own = _own_settings(room, kind)
    if own.get("do_lower_case") or read_json(room / "tokenizer_config.json", {}).get("truncation_side") == "left":
        raise UnknownModelError("its texts are changed or cut in a way that only sentence-transformers knows")
    if given := [name for name in _ROLE_SETTINGS if own.get(name)]:
        raise UnknownModelError(f"its {given[0]} is {own[given[0]]}, and texts are cut alike for all roles here")
    about = read_json(folder / "config_sentence_transformers.json", {})
    own_type = "MultiVectorEncoder" if kind is ModelKind.TOKENS else None
    if (other := about.get("model_type")) in _OTHER_KINDS and other != own_type:
        raise UnknownModelError(f"it is a {other}")
    modules = read_json(folder / "modules.json", [])
    types = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if routers := _ROUTERS.intersection(types):
        raise UnknownModelError(f"its modules.json has a {routers.pop()}, which computes queries and documents apart")
    late = read_json(folder / "artifact.metadata", {}) if kind is ModelKind.TOKENS else {}
    if other_settings := [name for name, value in _LATE_SETTINGS.items() if late.get(name, value) != value]:
        raise UnknownModelError(f"its artifact.metadata says {other_settings[0]} {late[other_settings[0]]}")
    prompts, default = about.get("prompts") or {}, about.get("default_prompt_name")
    if kind is ModelKind.CROSS_ENCODER and prompts.get(default):
        raise UnknownModelError(f"it is a cross-encoder with a default prompt ({default})")
    if kind is ModelKind.ENCODER and any(chosen_prompts(prompts, default).values()):
        for module in modules:
            if read_json(folder / module.get("path", "") / "config.json", {}).get("include_prompt") is False:
                raise UnknownModelError("its pooling leaves out the prompt (include_prompt is false)")


def _own_settings(room: Path, kind: ModelKind) -> dict[str, Any]:
    """Read the settings of the transformer's module; empty if there are none, or if lengths are chosen here."""
    if kind is ModelKind.TOKENS:
        return {}
    found: dict[str, Any] = next(filter(None, (read_json(room / name, {}) for name in _OWN_SETTINGS)), {})
    return found


def read_spec(folder: Path, kind: ModelKind) -> ModelSpec:
    """Read how to feed a model from its files, as sentence-transformers does; raise UnknownModelError."""
    check_feeding(folder, kind)
    room = transformer_folder(folder)
    config = read_json(room / "config.json")
    own = _own_settings(room, kind)
    tokenizer = read_json(room / "tokenizer_config.json", {})
    about = read_json(folder / "config_sentence_transformers.json", {})
    positions = config.get("max_position_embeddings", 0)
    limit = own.get("max_seq_length") or min(tokenizer.get("model_max_length", positions), positions)
    if limit <= 0:
        raise UnknownModelError("its files do not say after how many tokens a text is cut off")
    return ModelSpec(
        dimension=_dimension(folder, kind, config["hidden_size"]),
        max_token_count=limit,
        pad_token_id=config.get("pad_token_id") or 0,
        prompts=chosen_prompts(about.get("prompts") or {}, about.get("default_prompt_name")),
    )


def _dimension(folder: Path, kind: ModelKind, hidden: int) -> int:
    if kind is ModelKind.TOKENS:
        projection = tensors_of(weights_file(folder))[0].get(PROJECTION)
        return projection["shape"][0] if projection else min(hidden, _MOST_STATE_DIMENSIONS)
    return hidden if kind is ModelKind.ENCODER else 1


def weights_file(folder: Path) -> Path:
    """Path of the weights with links followed: in Hugging Face's cache the file's real name is a checksum."""
    return (transformer_folder(folder) / "model.safetensors").resolve()


def tensors_of(file: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file: tensors by name, and where their bytes begin.

    Raises UnknownModelError if there is no such file, or if it is none.
    """
    if not file.is_file():
        raise UnknownModelError("its weights are not in one file model.safetensors")
    with file.open("rb") as stream:
        length = min(int.from_bytes(stream.read(8), "little"), file.stat().st_size)
        try:
            return json.loads(stream.read(length)), 8 + length
        except ValueError as error:
            raise UnknownModelError("its model.safetensors has no header") from error


def read_tokenizer(folder: Path) -> str:
    """Read the tokenizer's definition; raise UnknownModelError if another file of the model contradicts it."""
    room = transformer_folder(folder)
    if not (file := room / "tokenizer.json").is_file():
        raise UnknownModelError("it has no tokenizer.json")
    definition = file.read_text(encoding="utf-8")
    lowercase = (json.loads(definition).get("normalizer") or {}).get("lowercase")
    if lowercase is not None and lowercase != read_json(room / "tokenizer_config.json", {}).get(
        "do_lower_case", lowercase
    ):
        raise UnknownModelError("its tokenizer.json and tokenizer_config.json disagree about lower case")
    return definition


def chosen_prompts(prompts: Mapping[Any, str | None], default: str | None) -> dict[str, str]:
    """Choose the prompt of each role among a model's prompts."""
    return {
        role: next((prompts[name] for name in (*names, default) if name in prompts), None) or ""
        for role, names in _PROMPTS.items()
    }
