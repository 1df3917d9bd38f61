"""Write docs/configuration.md, the settings of all stages: `python tools/settings_table.py`, or `--check`."""

from __future__ import annotations

import argparse
import enum
import sys
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploy.stages import STAGES
from services.chassis.settings import SheddingSettings, StageSettings
from services.inference.models.settings import InferenceSettings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
# Settings that several stages share, the most general first.
SHARED: dict[str, type[StageSettings]] = {
    "Every stage": StageSettings,
    "Model stages": InferenceSettings,
    "Stages that shed load": SheddingSettings,
}
_HEAD = """# Configuration

<!-- Made by `make docs` from the settings of the stages. -->

Every stage reads environment variables once, at its start, and refuses to start if one of them is wrong. A profile
(`deploy/profiles`) sets all of them for all stages; the environment of `make up` goes before the profile.
"""


def page() -> str:
    """Return the page: settings that stages share, then those of each stage."""
    parts = [_HEAD]
    for title, settings in SHARED.items():
        users = [spec.name for spec in STAGES if issubclass(spec.settings(), settings)]
        whose = "" if settings is StageSettings else f"Of {' and '.join(users)}.\n\n"
        parts.append(f"## {title}\n\n{whose}{_table(settings, _parent(settings))}")
    for spec in STAGES:
        ports = (
            f"`{spec.full_service}` on port {spec.grpc_port}; metrics on 9103, under `make up` on {spec.metrics_port}."
        )
        parts.append(f"## {spec.name.capitalize()}\n\n{ports}\n\n{_table(spec.settings(), _parent(spec.settings()))}")
    return "\n".join(parts)


def _parent(settings: type[StageSettings]) -> type[StageSettings] | None:
    """Return the nearest class of settings that others share, too."""
    return next((kind for kind in settings.__mro__[1:] if kind in SHARED.values()), None)


def _table(settings: type[StageSettings], parent: type[StageSettings] | None) -> str:
    inherited = {} if parent is None else parent.model_fields
    rows = [
        f"| `{name.upper()}` | {_values(field)} | {_default(field)} | {field.description} |"
        for name, field in settings.model_fields.items()
        if name not in inherited or field.default != inherited[name].default
    ]
    return "\n".join(["| Variable | Values | Default | Meaning |", "|---|---|---|---|", *rows, ""])


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if kind is bool:
        return "`0`, `1`"
    if "file" in field.metadata:
        return "file"
    words = {int: "whole number", float: "number", Path: "folder"}.get(kind, "text")
    bounds = {
        sign: getattr(rule, name)
        for rule in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(rule, name, None) is not None
    }
    return ", ".join([words, *(f"{sign} {bound}" for sign, bound in bounds.items())])


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if field.default_factory is not None or value is None or str(value) == "":
        return "unset"
    if isinstance(value, enum.Enum):
        value = value.value
    return f"`{int(value) if isinstance(value, bool) else value}`"


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/configuration.md is out of date")
    if parser.parse_args().check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
            sys.exit("docs/configuration.md is out of date; run `make docs`")
    else:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
