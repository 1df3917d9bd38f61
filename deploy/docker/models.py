"""Put a model into a folder as an image holds it: `python models.py STAGE MODEL ENGINE FOLDER`.

`python models.py lock FOLDER FILE` then writes the lock of all that is in the folder.

The model itself goes to `FOLDER/<its short name>`, for MODEL_DIR; int8 weights and exports, which some engines and
architectures need, are made from it and go to `FOLDER/cache`, for MODEL_CACHE_DIR. The stage `tokens` stands for the
embedder's model of token vectors.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

from sluice_models import Lock
from sluice_models.places import artifacts_in, locked, models_in

_SHIPPED = Path("models.lock.toml")


def carry(stage: str, name: str, engine: Literal["onnx", "openvino", "torch"], folder: Path) -> None:
    """Fill the folder; raise StartupError if the model cannot be found, or the engine cannot serve it."""
    # Locking alone needs none of these.
    from services.inference.models.artifacts import default_cache_dir  # noqa: PLC0415
    from services.inference.models.info import ModelKind, Precision  # noqa: PLC0415
    from services.inference.models.resolver import resolve_model  # noqa: PLC0415
    from services.inference.models.runtime import ModelOptions, load_runtime  # noqa: PLC0415

    kinds = {"embedder": ModelKind.ENCODER, "reranker": ModelKind.CROSS_ENCODER, "tokens": ModelKind.TOKENS}
    precisions: dict[str, Precision] = {"onnx": "fp32", "openvino": "int8"}
    kind = kinds[stage]
    found = resolve_model(name, kind, model_dir=None, cache_dir=default_cache_dir())
    short = found.name.rsplit("/", 1)[-1]
    shutil.copytree(found.folder, folder / short)
    if engine == "torch":
        return  # torch serves the model's own files
    cache = folder / "cache"
    if kind is ModelKind.TOKENS:  # fp32 beside vectors of int8
        engine = "onnx"
    precision = precisions[engine]
    options = ModelOptions(backend=engine, precision=precision, model_dir=folder, cache_dir=cache)
    load_runtime(found.name, kind, options)
    for made in cache.glob(f"{short}-*"):
        # int8 may be made from an fp32 export that nothing serves then.
        if made.is_file():
            made.unlink()
        elif f"-{precision}-" not in made.name:
            shutil.rmtree(made)


def lock(folder: Path, target: Path) -> None:
    """Write the lock of all models in the folder, and of what was made of them."""
    shipped = Lock.read(_SHIPPED)
    found = [locked(name, place, shipped) for name, place in models_in(folder)]
    target.write_text(Lock().with_models(found, artifacts_in(folder)).to_text(), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "lock":
        lock(Path(sys.argv[2]), Path(sys.argv[3]))
        sys.exit()
    from services.chassis.errors import StartupError

    try:
        carry(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))  # type: ignore[arg-type]  # a known engine
    except StartupError as error:
        sys.exit(f"{error.message}\n{error.remedy}")
