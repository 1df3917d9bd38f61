"""Writes the table of all environment variables into README.md: `python tools/settings_table.py`, or `--check`."""

from __future__ import annotations

import argparse
import enum
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from sections import write

from services.chassis.settings import SheddingSettings, StageSettings
from services.embedder.settings import EmbedderSettings
from services.expander.settings import ExpanderSettings
from services.gateway.settings import GatewaySettings
from services.inference.models.settings import InferenceSettings
from services.reranker.settings import RerankerSettings
from services.retriever.settings import RetrieverSettings
from services.rollout.settings import RolloutSettings

SECTIONS: list[tuple[str, type[StageSettings], type[StageSettings] | None]] = [
    ("Every stage", StageSettings, None),
    ("Embedder and reranker", InferenceSettings, StageSettings),
    ("Gateway and retriever", SheddingSettings, StageSettings),
    ("Gateway", GatewaySettings, SheddingSettings),
    ("Embedder", EmbedderSettings, InferenceSettings),
    ("Reranker", RerankerSettings, InferenceSettings),
    ("Expander", ExpanderSettings, StageSettings),
    ("Retriever", RetrieverSettings, SheddingSettings),
    ("Rollout", RolloutSettings, StageSettings),
]


def table() -> str:
    """The table, one section a stage."""
    lines: list[str] = []
    for title, settings, parent in SECTIONS:
        inherited = {} if parent is None else parent.model_fields
        lines += ["", f"**{title}**", "", "| Variable | Values | Default | Meaning |", "|---|---|---|---|"]
        for name, field in settings.model_fields.items():
            if name in inherited and field.default == inherited[name].default:
                continue
            lines.append(f"| `{name.upper()}` | {_values(field)} | {_default(field)} | {field.description} |")
    return "\n".join([*lines, ""])


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
    if kind is Path and (field.description or "").startswith("File"):
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
    """Writes or checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if README.md is not up to date")
    write("settings", table(), check=parser.parse_args().check)


if __name__ == "__main__":
    main()
