"""Local overrides: kills for a gateway that is cut off, and shares of users without a rollout service.

The environment says it at the start, and a file says it again while the gateway runs: `NAME=VALUE` lines, `#` before
comments. What editors and shells write around that is read over: byte order marks, UTF-16, line ends of Windows,
quotes, `export`, blanks that do not break, characters without width. A name in the file wins over the environment; a
name that is not in it, or no file, leaves it to the environment. A file with a mistake changes nothing but for the
kills that it names, which hold at once, and an empty file, as a writer leaves it that was stopped half-way, changes
nothing at all: what was killed stays killed.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from services.experiment.flags import FLAGS, Overrides
from services.gateway.rollout.table import Ramp
from services.gateway.search.flags import Features

KILL = "ROLLOUT_KILL"
SHARES = {flag.share_variable: flag for flag in FLAGS.values() if flag.share_variable}
"""The flags that this machine can give to a share of users, by the variable that says so."""
MAX_FILE_BYTES = 65_536

_NAME = re.compile(r"[a-z0-9-]{1,64}")
_PERCENTAGE = re.compile(r"[0-9]{1,3}")
# As shells, Dockerfiles and PowerShell begin a line that sets a variable.
_SETTING = re.compile(r"(?:(?:export|set|setx|env|declare(?: -\w+)?)\s+|\$env:|\$)(?=[\"'\w])", re.IGNORECASE)
_PAIR = re.compile(r"([A-Za-z_]\w*)[\"']?\s*[=:]\s*(.*)", re.ASCII)
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb"
_OTHER_UNICODE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True, slots=True)
class LocalOverrides:
    """Kills and shares of this machine."""

    killed: Sequence[str] = ()
    """Names of features."""
    percentages: Mapping[str, int] = field(default_factory=dict)
    """Share of users, 0 to 100, by the variable's name."""

    def ramps(self) -> list[Ramp]:
        """A feature for every share above zero, named as its variable begins.

        They count as created before all features of a rollout service, which win where both set the same.
        """
        return [
            Ramp(name=name, salt=name, overrides=Overrides(**{flag.name: True}), treatment_ppm=share * 10_000)
            for variable, flag in SHARES.items()
            if (share := self.percentages.get(variable, 0))
            for name in [variable.removesuffix("_ROLLOUT_PERCENTAGE").lower()]
        ]


def problems_of(overrides: LocalOverrides, defaults: Features) -> list[str]:
    """Readable contradictions between shares and defaults; empty where there are none."""
    return [
        f"{variable} is below 100, but {flag.variable} gives {flag.name} to everybody; set {flag.variable}=0"
        for variable, flag in SHARES.items()
        if 0 < overrides.percentages.get(variable, 0) < 100 and getattr(defaults, flag.name)
    ]


class OverridesFile:
    """The file of local overrides, which is read repeatedly."""

    def __init__(self, path: Path, environment: LocalOverrides, defaults: Features) -> None:
        """Take the overrides that hold without the file as `environment`."""
        self.path = path
        self._environment = environment
        self._defaults = defaults
        self._last: bytes | None = None
        self._unreadable = False
        self._current = environment
        self.problem_count = 0
        """Number of problems that the file has now."""

    def look(self) -> tuple[LocalOverrides, Sequence[str]] | None:
        """Overrides that hold now, and readable problems of the file; None where nothing has changed."""
        try:
            with self.path.open("rb") as file:
                raw: bytes | None = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raw = None
        except OSError as error:
            if self._unreadable:
                return None
            self._unreadable, self.problem_count = True, 1
            return self._current, [f"cannot be read: {error.strerror or error}"]
        if raw == self._last and not self._unreadable:
            return None
        self._last, self._unreadable = raw, False
        self._current, problems = self._read(raw)
        self.problem_count = len(problems)
        return self._current, problems

    def _read(self, raw: bytes | None) -> tuple[LocalOverrides, Sequence[str]]:
        if raw is None:
            return self._environment, []
        text = _decoded(raw)
        if not text.strip():
            return self._current, ["is empty; delete it, or leave a comment in it, to take back what it said"]
        if len(raw) > MAX_FILE_BYTES:
            return self._current, [f"is longer than {MAX_FILE_BYTES} bytes"]
        given, problems = parse(text)
        said = replace(
            self._environment,
            killed=self._environment.killed if given.killed is None else given.killed,
            percentages={**self._environment.percentages, **given.percentages},
        )
        problems += problems_of(said, self._defaults)
        if problems:
            kills = dict.fromkeys([*self._current.killed, *(given.killed or ())])
            return replace(self._current, killed=tuple(kills)), problems
        return said, []


@dataclass(frozen=True, slots=True)
class _Given:
    killed: Sequence[str] | None
    percentages: Mapping[str, int]


def parse(text: str) -> tuple[_Given, list[str]]:
    """Overrides of the lines that can be read, and readable problems of the others."""
    killed: list[str] | None = None
    percentages: dict[str, int] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        pair = _PAIR.fullmatch(_SETTING.sub("", content.lstrip(_QUOTES), count=1).lstrip(_QUOTES))
        name, value = (pair[1].upper(), pair[2].strip(f" ;\\,{_QUOTES}")) if pair else ("", "")
        if pair is None:
            problems.append(f"line {number} is not NAME=VALUE")
        elif name == KILL:
            names, wrong = killed_names(value)
            killed = [*(killed or []), *names]
            problems += [f"line {number}: {problem}" for problem in wrong]
        elif name not in SHARES:
            problems.append(f"line {number} names no override; there are {', '.join((KILL, *SHARES))}")
        elif not _PERCENTAGE.fullmatch(value) or int(value) > 100:
            problems.append(f"line {number}: {name} is no whole number from 0 to 100")
        else:
            percentages[name] = int(value)
    return _Given(killed, percentages), problems


def killed_names(value: str) -> tuple[list[str], list[str]]:
    """Legal names of features, separated by commas or blanks, and readable problems of the others."""
    names = [name.strip(_QUOTES) for name in re.split(r"[\s,;]+", value)]
    names = [name for name in names if name]
    wrong = [name for name in names if not _NAME.fullmatch(name.lower())]
    return [name.lower() for name in names if name not in wrong], [
        f"{name[:64]!r} is no name of a feature: lower case letters, digits and dashes" for name in wrong
    ]


def _decoded(raw: bytes) -> str:
    """Return the text of a file, whatever editor wrote it: as characters that are seen, and plain blanks."""
    encoding = next((name for mark, name in _OTHER_UNICODE.items() if raw.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in raw[:2]:
        encoding = "utf-16-be" if raw[:1] == b"\0" else "utf-16-le"
    shown = raw.decode(encoding, errors="replace")
    seen = (character for character in shown if unicodedata.category(character) != "Cf")
    return "".join(" " if unicodedata.category(character) == "Zs" else character for character in seen)
