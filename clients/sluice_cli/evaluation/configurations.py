"""Configurations to compare: flags on the command line, in a file, or those of an experiment's arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
import yaml

from sluice_cli.calls import Connection
from sluice_client import FLAGS, Features, features, flag_values

OPTION = "--config"
FORMS = "NAME=flag:value,flag:value; NAME=file.yaml; NAME=arm:EXPERIMENT/ARM; NAME= for the gateway's own flags"
_MOST_BYTES = 64 * 1024
_SWITCHES = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to answer."""

    name: str
    features: Features

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that it sets."""
        return dict(flag_values(self.features))


async def read_configurations(
    given: Sequence[str], connection: Connection, rollout: str, *, least: int = 2
) -> list[Configuration]:
    """Read configurations, the first of which the others are compared with. Raises typer.BadParameter."""
    found = [one for text in given for one in await _read(text, connection, rollout)]
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _wrong(f"{', '.join(twice)} comes more than once")
    if len(found) < least:
        raise _wrong(f"give two or more: {FORMS}")
    return found


async def _read(text: str, connection: Connection, rollout: str) -> Sequence[Configuration]:
    name, separator, value = (part.strip() for part in text.partition("="))
    if not separator and _is_file(text):
        return list(_of_file(text))
    if not separator or not name:
        raise _wrong(f"{text!r} is none; write {FORMS}")
    if value.startswith("arm:"):
        return [Configuration(name, await _of_arm(value.removeprefix("arm:"), connection, rollout))]
    if _is_file(value):
        return [Configuration(name, _made(_table(value), value))]
    pairs = [pair.partition(":") for pair in value.split(",") if pair.strip()]
    return [Configuration(name, _made({flag.strip(): said.strip() for flag, _, said in pairs}, text))]


def _is_file(text: str) -> bool:
    return Path(text).suffix in {".yaml", ".yml"}


def _of_file(source: str) -> Iterator[Configuration]:
    """Read several: flags by name, or the arms of an experiment's plan."""
    table = _table(source)
    arms = table.get("arms")
    if isinstance(arms, list):
        for arm in arms:
            if not isinstance(arm, dict) or not isinstance(arm.get("name"), str):
                raise _wrong(f"{source}: an arm is to be a table with a name")
            yield Configuration(arm["name"], _made(arm.get("overrides") or {}, source))
        return
    for name, flags in table.items():
        yield Configuration(name, _made(flags or {}, source))


def _table(source: str) -> Mapping[str, Any]:
    try:
        raw = Path(source).read_bytes()
        if len(raw) > _MOST_BYTES:
            raise _wrong(f"{source} is larger than {_MOST_BYTES // 1024} KiB")
        found = yaml.load(raw.decode("utf-8-sig"), Loader=yaml.BaseLoader)  # noqa: S506  # of text alone
    except OSError as error:
        raise _wrong(f"{source} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _wrong(f"{source} is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise _wrong(f"{source} is no table of names and values")
    return found


async def _of_arm(named: str, connection: Connection, rollout: str) -> Features:
    experiment, _, arm = named.partition("/")
    async with replace(connection, rollout=rollout).experiment_client() as client:
        plan = (await client.experiment(experiment)).experiment.plan
    for one in plan.arms:
        if one.name == arm:
            return one.features or Features()
    raise _wrong(f"{experiment} has no arm {arm!r}; it has {', '.join(one.name for one in plan.arms)}")


def _made(flags: Any, source: str) -> Features:
    if not isinstance(flags, dict):
        raise _wrong(f"{source}: flags are to be a table")
    try:
        return features(**{name: _value(name, said) for name, said in flags.items()})
    except (TypeError, ValueError) as error:
        raise _wrong(f"{source}: {error}") from None


def _value(name: str, said: Any) -> Any:
    kind = FLAGS[name].kind if name in FLAGS else str
    text = str(said)
    if kind is bool and text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    if kind is int and text.lstrip("-").isdecimal():
        return int(text)
    return text


def _wrong(what: str) -> typer.BadParameter:
    return typer.BadParameter(what, param_hint=OPTION)
