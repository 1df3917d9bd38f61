"""Plan files: features in their order, with steps and criteria.

YAML or TOML, at most 64 KiB, with the line `# end of plan` at its end, so that half a file is no plan. Nothing in it is
executed, no name refers to another place, and an unknown field is refused by its name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
    model_validator,
)
from pydantic_core import core_schema

from sluice_cli.calls import WRONG_COMMAND_LINE, Problem
from sluice_client import EVERYBODY_PPM, FLAGS, Criteria, Features, Flag, Plan, PlanStep, features

LAST_LINE = "# end of plan"
MOST_BYTES = 64 * 1024
_MOST_PROBLEMS = 5
_DEEPEST = 20
_TEMPLATES = resources.files("sluice_cli.rollout") / "templates"
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


def _latency(given: Any) -> timedelta:
    latency = _duration(given)
    if not timedelta() < latency <= timedelta(hours=1):
        raise ValueError("must be above 0 and at most 1 h")
    return latency


Share = Annotated[int, BeforeValidator(_share)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
Rate = Annotated[float, BeforeValidator(_ratio), Field(gt=0, le=1)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Latency = Annotated[timedelta, BeforeValidator(_latency)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
Words = Annotated[str, StringConstraints(max_length=1000)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepFile(_Table):
    """A step."""

    share: Annotated[Share, Field(gt=0)]
    dwell: Duration
    automatic: bool = False


class CriteriaFile(_Table):
    """Criteria of a promotion; one that is not named is ignored."""

    error_rate_max: Rate | None = None
    exposure_failure_rate_max: Rate | None = None
    p95_increase_max: Annotated[Ratio, Field(gt=0)] | None = None
    p99_increase_max: Annotated[Ratio, Field(gt=0)] | None = None
    p95_max: Latency | None = None
    p99_max: Latency | None = None
    quality_score_min: Annotated[float, Field(gt=0, lt=1)] | None = None
    allowed_ratio: Annotated[float, Field(ge=0.5, le=10)] | None = None
    non_inferiority_ratio: Annotated[float, Field(gt=1, le=10)] | None = None


def _flag_type(flag: Flag) -> Any:
    if flag.choices:
        return Literal[flag.choices]
    return Annotated[int, Field(ge=flag.least, le=flag.most)] if flag.kind is int else flag.kind


_FLAGS: dict[str, Any] = {flag.name: (_flag_type(flag) | None, None) for flag in FLAGS.values()}
_Overrides = create_model("_Overrides", __base__=_Table, **_FLAGS)


def _features(given: BaseModel) -> Features:
    values = given.model_dump(exclude_none=True)
    if not values:
        raise ValueError("switches nothing; name at least one thing, as in rerank: true")
    for name, value in values.items():
        other = FLAGS[name].unless
        if value is False and other and values.get(other) is False:
            raise ValueError(f"{name} and {other} are both off; leave at least one of them on")
    return features(**values)


Overrides = Annotated[
    Features,
    GetPydanticSchema(
        lambda _, schema_of: core_schema.no_info_after_validator_function(_features, schema_of(_Overrides))
    ),
]
"""Flags by name, with the types and bounds of the proto."""
Steps = Annotated[list[StepFile], Field(min_length=1, max_length=20)]


def _growing(steps: list[StepFile]) -> None:
    for place in range(1, len(steps)):
        if steps[place].share <= steps[place - 1].share:
            raise ValueError(f"steps[{place}].share must be more than that of the step before")


class FeatureFile(_Table):
    """A feature, with steps of its own if they differ."""

    name: Name
    description: Words = ""
    overrides: Overrides
    steps: Steps | None = None

    @model_validator(mode="after")
    def _steps_grow(self) -> Self:
        _growing(self.steps or [])
        return self


class PlanFile(_Table):
    """A whole file."""

    name: Name
    description: Words = ""
    criteria: CriteriaFile
    shadow: Share = 0
    holdout: Annotated[Share, Field(le=500_000)] = 0
    steps: Steps
    features: Annotated[list[FeatureFile], Field(min_length=1, max_length=50)]

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _growing(self.steps)
        names = [feature.name for feature in self.features]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"features: {', '.join(twice)} appears more than once")
        if not self.criteria.model_dump(exclude_none=True):
            raise ValueError("criteria: names nothing that must hold; a ramp without criteria only watches guardrails")
        return self

    def feature(self, name: str) -> FeatureFile:
        """Find a feature by name. Raises Problem for an unknown one."""
        for feature in self.features:
            if feature.name == name:
                return feature
        names = ", ".join(feature.name for feature in self.features)
        raise Problem(f"the plan {self.name} has no feature {name}", f"it has: {names}", exit_code=WRONG_COMMAND_LINE)

    def plan(self, feature: FeatureFile) -> Plan:
        """Make the plan of a feature, as the service takes it."""
        return Plan(
            name=self.name,
            steps=[
                PlanStep(treatment_ppm=step.share, dwell=step.dwell, automatic=step.automatic)
                for step in feature.steps or self.steps
            ],
            criteria=Criteria(**self.criteria.model_dump()),
            holdout_ppm=self.holdout,
            shadow_ppm=self.shadow,
        )


def parse_share(text: str) -> int:
    """Read a share of users, in parts per million. Raises Problem."""
    try:
        return _share(text)
    except ValueError as error:
        raise Problem(f"the share {_shown(text)!r}: {error}", "as in 25%", exit_code=WRONG_COMMAND_LINE) from None


def template_names() -> list[str]:
    """List the templates that come with the command."""
    return sorted(path.name.removesuffix(".yaml") for path in _TEMPLATES.iterdir() if path.name.endswith(".yaml"))


def template_text(name: str) -> str:
    """Read a template. Raises Problem for an unknown one."""
    if name not in template_names():
        raise Problem(
            f"there is no plan file and no template {name!r}",
            f"name a file, or a template: {', '.join(template_names())}; `sluice rollout plan weekly > plan.yaml` "
            "writes one to be changed",
            exit_code=WRONG_COMMAND_LINE,
        )
    return (_TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8")


def read_plan(source: str) -> PlanFile:
    """Read a plan file, or a template by name. Raises Problem."""
    path = Path(source)
    if "/" in source or path.suffix in {".yaml", ".yml", ".toml"}:
        try:
            with path.open("rb") as file:
                raw = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise Problem(
                f"{source} cannot be read: {error.strerror or error}",
                f"name a file that can, or a template: {', '.join(template_names())}",
                exit_code=WRONG_COMMAND_LINE,
            ) from None
        return parse_plan(raw, source)
    return parse_plan(template_text(source).encode(), f"{source}.yaml")


def parse_plan(raw: bytes, source: str) -> PlanFile:
    """Parse a plan file; `source` is its name. Raises Problem."""
    try:
        return PlanFile.model_validate(_parsed(raw, toml=source.endswith(".toml")))
    except ValidationError as error:
        problems = [_told(problem) for problem in error.errors(include_url=False, include_context=False)]
        more = len(problems) - _MOST_PROBLEMS
        told = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise _problem(source, told) from None
    except ValueError as error:
        raise _problem(source, str(error)) from None


def _parsed(raw: bytes, *, toml: bool) -> Mapping[str, Any]:
    """Parse YAML or TOML. Raises ValueError."""
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
        value = tomllib.loads(text) if toml else yaml.load(text, Loader=_PlainLoader)  # noqa: S506  # a loader of text alone
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:  # TOML's parser has no bound of its own
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no table of names and values")
    return value


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


def _told(problem: Any) -> str:
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
    return f"{path}: {message}" if path else message


def _shown(given: Any) -> str:
    text = str(given)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _problem(source: str, what: str) -> Problem:
    return Problem(
        f"{source} is no plan: {what}",
        "nothing was changed; `sluice rollout plan weekly` shows a whole plan",
        exit_code=WRONG_COMMAND_LINE,
    )
