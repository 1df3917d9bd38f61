"""Find a model by its name: a path, a model folder, Hugging Face's cache or its hub, in this order.

A broken copy is an error if the operator named its folder (a path, MODEL_DIR); elsewhere it is passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.chassis import logs
from services.chassis.errors import StartupError
from services.inference.manifest import Vouched
from services.inference.models.info import ModelKind
from services.inference.models.layout import problem_of

HUB_SECONDS = 900
_HUB_ANSWER_SECONDS = 10
_ORGANIZATION = {
    ModelKind.ENCODER: "sentence-transformers",
    ModelKind.CROSS_ENCODER: "cross-encoder",
    ModelKind.TOKENS: "answerdotai",
}
_PATH_PREFIXES = ("/", "./", "../", "~")

_log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model in a folder, complete, in Hugging Face's layout."""

    name: str
    kind: ModelKind
    folder: Path
    source: str
    """Place where it was found, in words."""
    vouched: Vouched | None = None
    """The entry of the lock that vouches for its files."""

    def artifact(self, precision: str, version: int, fingerprint: str) -> str:
        """Return the name of the folder for something that is made of it once."""
        return f"{self.name.rsplit('/', 1)[-1]}-{self.kind}-{precision}-v{version}-{fingerprint[:16]}"


class _NotThereError(Exception):
    """A place does not have the model; the message says why."""


def resolve_model(name: str, kind: ModelKind, *, model_dir: Path | None, cache_dir: Path) -> ResolvedModel:
    """Find a model by its short name, whole name or path.

    Raises StartupError, which lists each place tried, the problem with it, and a remedy.
    """
    if name.startswith(_PATH_PREFIXES):
        folder = Path(name).expanduser()
        if problem := problem_of(folder, kind):
            raise StartupError(
                f"model {name}: {problem}",
                remedy="Give the folder of a whole model in Hugging Face's layout: configuration, weights, tokenizer.",
            )
        return ResolvedModel(folder.resolve().name, kind, folder.resolve(), "path")

    whole_name = name if "/" in name else f"{_ORGANIZATION[kind]}/{name}"
    places: list[tuple[str, Callable[[], Path]]] = [
        ("model directory", lambda: _in_model_dir(whole_name, kind, model_dir)),
        ("model cache", lambda: _in_folder(whole_name, cache_dir)),
        ("Hugging Face cache", lambda: _in_hub_cache(whole_name)),
        ("hub", lambda: _on_hub(whole_name)),
    ]
    tried = []
    for place, find in places:
        try:
            folder = find()
            if problem := problem_of(folder, kind):
                raise _NotThereError(f"{folder}: {problem}")
        except _NotThereError as error:
            tried.append(f"{place}: {error}")
        else:
            _log.info("model found", model=whole_name, source=place, folder=str(folder))
            return ResolvedModel(whole_name, kind, folder.resolve(), place)
    short_name = whole_name.rsplit("/", 1)[-1]
    raise StartupError(
        f"model {whole_name} cannot be found. Tried: {'; '.join(tried)}",
        remedy=f"Check the name (a path begins with /, ./, ../ or ~), or run `hf download {whole_name} --local-dir "
        f"{short_name}` where the hub can be reached, bring that folder here and set MODEL_DIR to the folder above it.",
    )


def _in_model_dir(whole_name: str, kind: ModelKind, model_dir: Path | None) -> Path:
    if model_dir is None:
        raise _NotThereError("MODEL_DIR is not set")
    folder = _in_folder(whole_name, model_dir)
    if problem := problem_of(folder, kind):
        raise StartupError(
            f"model {whole_name}: {folder}: {problem}",
            remedy="Complete that folder, or remove it so that the model is looked for elsewhere.",
        )
    return folder


def _in_folder(whole_name: str, parent: Path) -> Path:
    short_name = whole_name.rsplit("/", 1)[-1]
    for folder in (parent / whole_name, parent / short_name):
        if folder.is_dir():
            return folder
    raise _NotThereError(f"{parent} has neither {whole_name} nor {short_name}")


def _in_hub_cache(whole_name: str) -> Path:
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  slow to import, often not needed
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415  as above

    try:
        return Path(snapshot_download(whole_name, local_files_only=True))
    except LocalEntryNotFoundError:
        raise _NotThereError(f"{constants.HF_HUB_CACHE} does not have it") from None
    except HFValidationError:
        raise _NotThereError("this is no name of a model there") from None


def _on_hub(whole_name: str) -> Path:
    """Download the model in a thread, because the hub's client has no deadline for the whole."""
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
        if not any(file.endswith(".safetensors") for file in files):
            return _NotThereError("its weights are not safetensors, and other formats may hold code")
        return Path(
            snapshot_download(
                whole_name,
                # The weights in one format, which holds no code, and the folders of the modules after the transformer.
                allow_patterns=["*.json", "*.txt", "*.model", "artifact.metadata", "model*.safetensors", "[0-9]_*/*"],
                ignore_patterns=["onnx/*", "openvino/*", "*.bin"],
                etag_timeout=_HUB_ANSWER_SECONDS,
            )
        )
    except Exception as error:  # of any kind: the model does not come from there
        return error
