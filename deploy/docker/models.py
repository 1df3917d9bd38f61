"""Puts a model into a folder as an image carries it: `python models.py STAGE MODEL ENGINE FOLDER`.

The model itself goes to `FOLDER/<its short name>`, for MODEL_DIR; what the engine serves is made from it and goes to
`FOLDER/cache`, for MODEL_CACHE_DIR. Run where torch is; the folder then serves where it is not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from services.chassis.errors import StartupError
from services.inference.models.info import ModelKind
from services.inference.models.resolver import resolve_model
from services.inference.models.runtime import ModelOptions, Precision, load_runtime

_KINDS = {"embedder": ModelKind.ENCODER, "reranker": ModelKind.CROSS_ENCODER}
_PRECISIONS: dict[str, Precision] = {"onnx": "fp32", "openvino": "int8", "torch": "fp32"}


def carry(stage: str, name: str, engine: Literal["onnx", "openvino", "torch"], folder: Path) -> None:
    """Fills the folder. Raises StartupError where the model cannot be had, or the engine cannot serve it."""
    kind = _KINDS[stage]
    with tempfile.TemporaryDirectory() as scratch:
        found = resolve_model(name, kind, model_dir=None, cache_dir=Path(scratch))
        shutil.copytree(found.folder, folder / found.name.rsplit("/", 1)[-1])
    cache = folder / "cache"
    precision = _PRECISIONS[engine]
    options = ModelOptions(backend=engine, precision=precision, model_dir=folder, cache_dir=cache)
    load_runtime(found.name, kind, options)
    for made in cache.glob("*"):
        # int8 is made from an fp32 export that nothing serves then.
        if made.is_file():
            made.unlink()
        elif f"-{precision}-" not in made.name:
            shutil.rmtree(made)


if __name__ == "__main__":
    try:
        carry(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))  # type: ignore[arg-type]  # an engine we know
    except StartupError as error:
        sys.exit(f"{error.message}\n{error.remedy}")
