"""Put a model into a folder as an image holds it: `python models.py STAGE MODEL ENGINE FOLDER`.

The model itself goes to `FOLDER/<its short name>`, for MODEL_DIR; int8 weights and exports, which some engines and
architectures need, are made from it and go to `FOLDER/cache`, for MODEL_CACHE_DIR. The stage `tokens` stands for the
embedder's model of token vectors.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

from services.chassis.errors import StartupError
from services.inference.models.artifacts import default_cache_dir
from services.inference.models.info import ModelKind, Precision
from services.inference.models.resolver import resolve_model
from services.inference.models.runtime import ModelOptions, load_runtime

_KINDS = {"embedder": ModelKind.ENCODER, "reranker": ModelKind.CROSS_ENCODER, "tokens": ModelKind.TOKENS}
_PRECISIONS: dict[str, Precision] = {"onnx": "fp32", "openvino": "int8"}


def carry(stage: str, name: str, engine: Literal["onnx", "openvino", "torch"], folder: Path) -> None:
    """Fill the folder; raise StartupError if the model cannot be found, or the engine cannot serve it."""
    kind = _KINDS[stage]
    found = resolve_model(name, kind, model_dir=None, cache_dir=default_cache_dir())
    short = found.name.rsplit("/", 1)[-1]
    shutil.copytree(found.folder, folder / short)
    if engine == "torch":
        return  # torch serves the model's own files
    cache = folder / "cache"
    if kind is ModelKind.TOKENS:  # fp32 beside vectors of int8
        engine = "onnx"
    precision = _PRECISIONS[engine]
    options = ModelOptions(backend=engine, precision=precision, model_dir=folder, cache_dir=cache)
    load_runtime(found.name, kind, options)
    for made in cache.glob(f"{short}-*"):
        # int8 may be made from an fp32 export that nothing serves then.
        if made.is_file():
            made.unlink()
        elif f"-{precision}-" not in made.name:
            shutil.rmtree(made)


if __name__ == "__main__":
    try:
        carry(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))  # type: ignore[arg-type]  # a known engine
    except StartupError as error:
        sys.exit(f"{error.message}\n{error.remedy}")
