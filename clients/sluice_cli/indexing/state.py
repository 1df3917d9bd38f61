"""Files that a run of `sluice index` keeps: in the user's folder of states, or where an option says."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem


def file_for(source: str, named: Path | None, option: str, ending: str, *run: str) -> Path:
    """Choose a file: the one that an option names, or one for this run in the folder of states. Raises Problem."""
    if named is not None:
        if source != "-" and named.resolve() == Path(source).resolve():
            raise Problem(f"{option} names the source itself", "name another file", exit_code=WRONG_COMMAND_LINE)
        return named.absolute()
    path = Path("stdin" if source == "-" else source).absolute()
    digest = hashlib.sha256("\n".join([os.fsdecode(path), *run]).encode(errors="surrogateescape")).hexdigest()
    return _state_folder(option) / f"{path.name[:64]}-{digest[:12]}.{ending}"


def make_room(path: Path) -> None:
    """Make the folder of a file in the folder of states; others have to be there. May raise OSError."""
    if path.parent.name == "index" and path.parent.parent.name == "sluice":
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


def _state_folder(option: str) -> Path:
    with contextlib.suppress(RuntimeError):  # no home
        given = os.environ.get("XDG_STATE_HOME", "")
        base = Path(given) if given and Path(given).is_absolute() else Path.home() / ".local" / "state"
        return base / "sluice" / "index"
    raise Problem(
        "there is no folder for the state of this run, as the user has no home", f"set XDG_STATE_HOME, or give {option}"
    )
