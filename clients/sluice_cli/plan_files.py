"""Plan files of rollouts and experiments: reading, the types of their values, and templates.

YAML or TOML, at most 64 KiB, with the line `# end of plan` at its end, so that half a file is no plan. Nothing in it is
executed, no name refers to another place, and an unknown field is refused by its name and line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    StringConstraints,
    ValidationError,
    create_model,
)
from pydantic_core import core_schema

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_client import EVERYBODY_PPM, FLAGS, Features, Flag, features

LAST_LINE = "# end of plan"
MOST_BYTES = 64 * 1024
_MOST_PROBLEMS = 5
_DEEPEST = 20
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
_PERCENT = re.compile(rf"({_NUMBER}) ?%", re.ASCII)
_TIME = re.compile(rf"({_NUMBER}) ?(ms|s|min|h|d|w)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_LONGEST = timedelta(days=366)


def _text(given: Any, pattern: re.Pattern[str], like: str) -> re.Match[str]:
    found = pattern.fullmatch(given.strip()) if isinstance(given, str) else None
    if found is None:
        raise ValueError(f"write it as {like}, not {_shown(given)!r}")
    return found


def _percent(given: Any) -> float:
    percent = float(_text(given, _PERCENT, "a percentage with its sign, as in '10 %'")[1])
    if percent > 1000:
        raise ValueError(f"{percent:g} % is more than 1,000 %")
    return percent


def _share(given: Any) -> int:
    percent = _percent(given)
    if percent > 100:
        raise ValueError(f"{percent:g} % is more than all users")
    return round(percent * EVERYBODY_PPM / 100)


def _ratio(given: Any) -> float:
    return _percent(given) / 100


def _duration(given: Any) -> timedelta:
    found = _text(given, _TIME, "a time with its unit (ms, s, min, h, d, w), as in '2 h'")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > _LONGEST.total_seconds():
        raise ValueError(f"is longer than {_LONGEST.days} d")
    return timedelta(seconds=seconds)


Share = Annotated[int, BeforeValidator(_share)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
Rate = Annotated[float, BeforeValidator(_ratio), Field(gt=0, le=1)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
Words = Annotated[str, StringConstraints(max_length=1000)]


class FileTable(BaseModel):
    """A table of a plan file; a name that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


FileT = TypeVar("FileT", bound=FileTable)


def _flag_type(flag: Flag) -> Any:
    if flag.choices:
        return Literal[flag.choices]
    return Annotated[int, Field(ge=flag.least, le=flag.most)] if flag.kind is int else flag.kind


_FLAGS: dict[str, Any] = {flag.name: (_flag_type(flag) | None, None) for flag in FLAGS.values()}
_Overrides = create_model("_Overrides", __base__=FileTable, **_FLAGS)


def _features(given: BaseModel) -> Features:
    values = given.model_dump(exclude_none=True)
    for name, value in values.items():
        other = FLAGS[name].unless
        if value is False and other and values.get(other) is False:
            raise ValueError(f"{name} and {other} are both off; leave at least one of them on")
    return features(**values)


def _some_features(given: BaseModel) -> Features:
    if not given.model_dump(exclude_none=True):
        raise ValueError("switches nothing; name at least one thing, as in rerank: true")
    return _features(given)


PerhapsOverrides = Annotated[
    Features,
    GetPydanticSchema(
        lambda _, schema_of: core_schema.no_info_after_validator_function(_features, schema_of(_Overrides))
    ),
]
"""Flags by name, with the types and bounds of the proto; there may be none."""
Overrides = Annotated[
    Features,
    GetPydanticSchema(
        lambda _, schema_of: core_schema.no_info_after_validator_function(_some_features, schema_of(_Overrides))
    ),
]
"""Flags by name, at least one."""


@dataclass(frozen=True)
class PlanFiles(Generic[FileT]):
    """Plan files of one kind, and the templates that come with the command."""

    kind: type[FileT]
    templates: Traversable
    """The folder of the templates."""
    print_template: str
    """The command that prints a template, without its name."""

    def template_names(self) -> list[str]:
        """List the templates."""
        names = (path.name for path in self.templates.iterdir())
        return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))

    def template_text(self, name: str) -> str:
        """Read a template. Raises Problem for an unknown one."""
        names = self.template_names()
        if name not in names:
            raise Problem(
                f"there is no plan file and no template {name!r}",
                f"name a file, or a template: {', '.join(names)}; `{self.print_template} {names[-1]} > plan.yaml` "
                "writes one to be changed",
                exit_code=WRONG_COMMAND_LINE,
            )
        return (self.templates / f"{name}.yaml").read_text(encoding="utf-8")

    def read(self, source: str) -> FileT:
        """Read a plan file, or a template by name. Raises Problem."""
        path = Path(source)
        if "/" not in source and path.suffix not in {".yaml", ".yml", ".toml"}:
            return self.parse(self.template_text(source).encode(), f"{source}.yaml")
        try:
            with path.open("rb") as file:
                raw = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise Problem(
                f"{source} cannot be read: {error.strerror or error}",
                f"name a file that can, or a template: {', '.join(self.template_names())}",
                exit_code=WRONG_COMMAND_LINE,
            ) from None
        return self.parse(raw, source)

    def parse(self, raw: bytes, source: str) -> FileT:
        """Parse a plan file; `source` is its name. Raises Problem."""
        try:
            value, root = _parsed(raw, toml=source.endswith(".toml"))
        except ValueError as error:
            raise self._problem(source, str(error)) from None
        try:
            return self.kind.model_validate(value)
        except ValidationError as error:
            problems = [_told(problem, root) for problem in error.errors(include_url=False, include_context=False)]
            more = len(problems) - _MOST_PROBLEMS
            told = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
            raise self._problem(source, told) from None

    def _problem(self, source: str, what: str) -> Problem:
        return Problem(
            f"{source} is no plan: {what}",
            f"nothing was changed; `{self.print_template} {self.template_names()[-1]}` shows a whole plan",
            exit_code=WRONG_COMMAND_LINE,
        )


def parse_share(text: str) -> int:
    """Read a share of users, in parts per million. Raises Problem."""
    try:
        return _share(text)
    except ValueError as error:
        raise Problem(f"the share {_shown(text)!r}: {error}", "as in 25%", exit_code=WRONG_COMMAND_LINE) from None


def _parsed(raw: bytes, *, toml: bool) -> tuple[Mapping[str, Any], yaml.Node | None]:
    """Parse YAML or TOML; of YAML, return the places of all values, too. Raises ValueError."""
    if len(raw) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 1024} KiB, which no plan is")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from None
    if not text.strip():
        raise ValueError("it is empty")
    if text.rstrip().splitlines()[-1].strip() != LAST_LINE:
        raise ValueError(f"its last line is not `{LAST_LINE}`: it may be cut off; where it is whole, add that line")
    try:
        value, root = (tomllib.loads(text), None) if toml else _loaded(text)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:  # TOML's parser has no bound of its own
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no table of names and values")
    return value, root


def _loaded(text: str) -> tuple[Any, yaml.Node | None]:
    loader = _PlainLoader(text)
    try:
        root = loader.get_single_node()
        return (loader.construct_document(root) if root is not None else None), root
    finally:
        loader.dispose()


class _PlainLoader(yaml.BaseLoader):
    """YAML with text values only, and without references or duplicate names."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # has no types yet
            raise yaml.MarkedYAMLError(problem="references (*name) have no place in a plan", problem_mark=mark)
        if self._depth > _DEEPEST:
            raise yaml.YAMLError("it is nested too deeply")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.MarkedYAMLError(problem="a name comes twice in this table", problem_mark=node.start_mark)
        return mapping


def _told(problem: Any, root: yaml.Node | None) -> str:
    path = ""
    for part in problem["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" if path else _shown(part)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "is not known here; check its spelling"
    elif problem["type"] == "missing":
        message = "is missing"
    elif problem["type"] == "string_pattern_mismatch":
        message = "must be 1 to 64 lower case letters, digits and dashes, no dash at either end"
    line = f"line {_line(root, problem['loc'])}: " if root is not None and path else ""
    return f"{line}{path}: {message}" if path else message


def _line(node: yaml.Node, path: Sequence[str | int]) -> int:
    """Line, from 1, of a value, or of the last table on the way to one that is missing."""
    line = int(node.start_mark.line) + 1
    for part in path:
        below: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if name.value == part:
                    below, line = value, int(name.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            below = node.value[part]
            line = int(node.value[part].start_mark.line) + 1
        if below is None:
            break
        node = below
    return line


def _shown(given: Any) -> str:
    text = str(given)
    return text if len(text) <= 40 else f"{text[:40]}…"
