"""`sluice plan`: replicas, what autoscalers aim at, and what features cost, from measured times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sluice_cli.calibrate import Wanted, calibrate
from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_warning,
    stderr,
    stdout,
)
from sluice_plan import (
    FEATURES,
    STAGES,
    Layout,
    Measurements,
    Network,
    Plan,
    Prediction,
    Search,
    Target,
    UnfitMeasurementsError,
    UnreachableError,
    size,
)
from sluice_plan.measurements import MODEL_STAGES, Feature, Stage

DEFAULT_MEASUREMENTS = "measured.json"
METRICS_PORTS: Mapping[Stage, int] = {
    "gateway": 9103,
    "embedder": 9104,
    "reranker": 9105,
    "expander": 9106,
    "retriever": 9107,
}
"""Where `make up` serves metrics."""
_BUSY = 0.1
_PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line of `sluice plan`."""

    qps: float
    p99_ms: float | None
    features: str
    candidates: int | None
    cores: Sequence[str]
    max_use: float
    shared_cores: float | None
    measurements: Path | None
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """The command line of `sluice plan calibrate`."""

    output: Path
    metrics: Sequence[str]
    collection: str
    queries: Path | None
    candidates: int
    searches: int
    batch_tokens: int
    as_json: bool


async def plan(_connection: Connection, options: Options) -> int:
    """Plans and shows; the exit code."""
    measurements = _measurements(options.measurements)
    network = Network(measurements)
    search = Search(_features(options.features), options.candidates)
    try:
        if options.shared_cores is not None:
            return _predict(network, search, options, options.shared_cores)
        if options.p99_ms is None:
            raise Problem(
                "what is to be held is missing",
                "say how soon 99 of 100 searches are to be answered, as --p99-ms 150; or, to predict what one machine "
                "does, how many processors it has: --shared-cores",
                exit_code=WRONG_COMMAND_LINE,
            )
        target = Target(options.qps, options.p99_ms / 1000, options.max_use, _cores(options.cores))
        found = size(network, search, target)
    except UnfitMeasurementsError as error:
        raise Problem(str(error), "measure all of it: `sluice plan calibrate`") from error
    except UnreachableError as error:
        raise _unreachable(error, options) from error
    if options.as_json:
        print_json(_plan_json(found, measurements))
    else:
        stdout.print(_plan_view(found))
    return DONE


async def measure(connection: Connection, options: CalibrateOptions) -> int:
    """Calibrates, and writes the measurements; the exit code."""
    wanted = Wanted(
        metrics=_metrics(options.metrics),
        collection=options.collection,
        queries=_lines(options.queries),
        candidates=options.candidates,
        searches=options.searches,
        batch_tokens=options.batch_tokens,
    )
    columns = (TextColumn("one search at a time"), BarColumn(), TimeRemainingColumn())
    async with connection.client() as client:
        with Progress(*columns, console=stderr) as progress:
            bar = progress.add_task("", total=None)
            measured = await calibrate(
                client, wanted, lambda done, total: progress.update(bar, completed=done, total=total)
            )
    try:
        options.output.write_text(json.dumps(measured.as_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(f"cannot write {options.output}: {error.strerror}", "name another file with --output") from error
    if options.as_json:
        print_json(measured.as_json())
    else:
        stdout.print(_measured_view(measured))
        stdout.print(f"\nWritten to {options.output}; plan with it: --measurements {options.output}")
    if measured.busy_before > _BUSY:
        say_warning(f"others used {measured.busy_before:.0%} of the machine just before: measure again when it is idle")
    return NEEDS_A_LOOK if measured.busy_before > _BUSY else DONE


def _measurements(path: Path | None) -> Measurements:
    """Those of a file, or those that came with this release, which are not of anybody's own machine."""
    if path is None:
        text = (resources.files("sluice_plan") / DEFAULT_MEASUREMENTS).read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(f"cannot read {path}: {error}", "make it with `sluice plan calibrate`") from error
    try:
        found = Measurements.from_json(json.loads(text))
    except ValueError as error:
        raise Problem(
            f"{path or DEFAULT_MEASUREMENTS}: {error}", "make it anew with `sluice plan calibrate`"
        ) from error
    if path is None:
        say_warning(
            f"planned from times measured on another machine: {_origin(found)}. Measure yours: `sluice plan calibrate`"
        )
    if found.busy_before > _BUSY:
        say_warning(
            f"these times were measured while others used {found.busy_before:.0%} of the machine, so stages look "
            "slower than they are: measure again when it is idle"
        )
    return found


def _origin(found: Measurements) -> str:
    models = ", ".join(f"{pace.name.rpartition('/')[2]} {pace.runtime}" for pace in found.models.values())
    return f"{found.machine}, {found.measured_at[:10]}, {models}, {found.passages:,} passages"


def _features(given: str) -> frozenset[Feature]:
    names = {name.strip() for name in given.split(",") if name.strip()} - {"none"}
    if unknown := sorted(names - set(FEATURES)):
        raise Problem(
            f"there is no feature {unknown[0]!r}",
            f"choose of {', '.join(FEATURES)}, separated by commas, or none",
            exit_code=WRONG_COMMAND_LINE,
        )
    return frozenset(feature for feature in FEATURES if feature in names)


def _cores(given: Sequence[str]) -> dict[Stage, float]:
    cores: dict[Stage, float] = {}
    for one in given:
        name, _, number = one.rpartition("=")
        try:
            count = float(number)
        except ValueError:
            count = 0.0
        stages = [stage for stage in MODEL_STAGES if name in ("", stage)]
        if not stages or not 0 < count <= 1024:
            raise Problem(
                f"--cores {one!r} says nothing",
                "give a number for both model stages, as 4, or for one, as reranker=8",
                exit_code=WRONG_COMMAND_LINE,
            )
        cores.update(dict.fromkeys(stages, count))
    return cores


def _metrics(given: Sequence[str]) -> dict[Stage, str]:
    urls: dict[Stage, str] = {stage: f"http://127.0.0.1:{port}/metrics" for stage, port in METRICS_PORTS.items()}
    for one in given:
        name, _, url = one.partition("=")
        stage = next((stage for stage in STAGES if stage == name), None)
        if stage is None or not url.startswith(("http://", "https://")):
            raise Problem(
                f"--metrics {one!r} names no stage with a URL",
                "as in --metrics embedder=http://127.0.0.1:9104/metrics",
                exit_code=WRONG_COMMAND_LINE,
            )
        urls[stage] = url
    return urls


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"cannot read {path}: {error}", "name a text file with one question a line") from error
    if not any(lines):
        raise Problem(f"{path} holds no question", "write one a line, as people ask them")
    return [line for line in lines if line]


def _unreachable(error: UnreachableError, options: Options) -> Problem:
    alone = error.alone.times.percentile(99) * 1000
    ways = []
    if error.candidates:
        ways.append(f"rerank no more than {error.candidates} candidates (--candidates {error.candidates})")
    if error.cores:
        ways.append(
            f"give each {error.slowest} {error.cores:.0f} processors (--cores {error.slowest}={error.cores:.0f}; "
            "measure whether that does what Amdahl's law hopes)"
        )
    ways.append(f"allow more than --p99-ms {alone:.0f}")
    ways.append(f"a quicker model, precision or device for the {error.slowest}, measured with `sluice plan calibrate`")
    return Problem(
        f"no number of replicas answers in {options.p99_ms:g} ms: a search that is alone takes {alone:.0f} ms at the "
        f"99th percentile, {error.alone.stages[error.slowest].alone_seconds * 1000:.0f} of them in the {error.slowest}",
        "; or ".join(ways),
        exit_code=NEEDS_A_LOOK,
    )


def _predict(network: Network, search: Search, options: Options, shared_cores: float) -> int:
    layout = Layout(cores=_cores(options.cores), shared_cores=shared_cores)
    prediction = network.predict(search, options.qps, layout)
    holds = prediction.keeps_up
    if options.p99_ms is not None:
        holds = holds and prediction.times.percentile(99) * 1000 <= options.p99_ms
    if options.as_json:
        print_json({"holds": holds, **_prediction_json(prediction)})
    else:
        stdout.print(
            Group(
                _states_table(
                    prediction, f"One machine, {shared_cores:g} processors, {options.qps:g} searches a second"
                ),
                _outcome(prediction),
            )
        )
    if not prediction.keeps_up:
        say_warning(f"{options.qps:g} searches a second are more than {prediction.capacity:.1f}: the queues only grow")
    return DONE if holds else NEEDS_A_LOOK


def _plan_view(plan: Plan) -> RenderableType:
    target = plan.target
    table = _table(f"{target.qps:g} searches a second, 99 % within {target.p99_seconds * 1000:g} ms")
    table.add_column("stage")
    for name in ("replicas", "cores each", "used", "mean ms", "p99 ms"):
        table.add_column(name, justify="right")
    table.add_column("autoscaler's aim, per pod")
    table.add_column("CPU %", justify="right")
    for pods in plan.pods:
        state = plan.prediction.stages[pods.stage]
        table.add_row(
            pods.stage,
            f"{pods.replicas:,}",
            f"{pods.cores:g}",
            f"{state.use:.0%}",
            _ms(state.mean_seconds),
            _ms(state.p99_seconds),
            f"{pods.signal} = {pods.signal_target:,}" if pods.signal else "",
            str(pods.cpu_target),
        )
    parts: list[RenderableType] = [table, _outcome(plan.prediction)]
    if plan.features:
        costs = _table("\nWhat each feature costs")
        costs.add_column("feature")
        for name in ("replicas", "cores", "of all", "mean ms", "p99 ms"):
            costs.add_column(name, justify="right")
        for cost in plan.features:
            costs.add_row(
                cost.feature,
                f"{cost.replicas:+,}",
                f"{cost.cores:+,.0f}",
                f"{cost.cores / plan.cores:.0%}",
                f"{cost.mean_seconds * 1000:+.1f}",
                f"{cost.p99_seconds * 1000:+.1f}",
            )
        parts.append(costs)
    parts.append(Text(f"\n{plan.cores:,.0f} cores in all", style="bold"))
    return Group(*parts)


def _states_table(prediction: Prediction, title: str) -> Table:
    table = _table(title)
    table.add_column("stage")
    for name in ("used", "mean ms", "p99 ms", "alone ms"):
        table.add_column(name, justify="right")
    for state in prediction.stages.values():
        table.add_row(
            state.stage,
            f"{state.use:.0%}",
            _ms(state.mean_seconds),
            _ms(state.p99_seconds),
            _ms(state.alone_seconds),
        )
    return table


def _outcome(prediction: Prediction) -> Text:
    percentiles = ", ".join(f"p{percent} {_ms(prediction.times.percentile(percent))} ms" for percent in _PERCENTILES)
    return Text.assemble(
        "\nExpected: ",
        (percentiles, "bold"),
        f"\nAt most {prediction.capacity:,.1f} searches a second; the ",
        (prediction.saturating, "bold"),
        " gives way first",
    )


def _measured_view(found: Measurements) -> RenderableType:
    table = _table(plain(_origin(found)))
    table.add_column("features")
    for name in ("a search, ms", *STAGES):
        table.add_column(name, justify="right")
    for features, cost in found.searches.items():
        table.add_row(
            ", ".join(sorted(features)) or "none",
            f"{cost.wall_seconds * 1000:.1f}",
            *(
                f"{cost.stages[stage].wall_seconds * 1000:.1f} ({cost.stages[stage].cpu_seconds * 1000:.1f} cpu)"
                if stage in cost.stages
                else ""
                for stage in STAGES
            ),
        )
    return table


def _plan_json(plan: Plan, measurements: Measurements) -> dict[str, Any]:
    return {
        "target": {"qps": plan.target.qps, "p99_ms": plan.target.p99_seconds * 1000, "max_use": plan.target.use},
        "features": sorted(plan.search.features),
        "cores": plan.cores,
        "stages": [asdict(pods) for pods in plan.pods],
        "feature_costs": [
            {
                "feature": cost.feature,
                "replicas": cost.replicas,
                "cores": cost.cores,
                "mean_ms": round(cost.mean_seconds * 1000, 2),
                "p99_ms": round(cost.p99_seconds * 1000, 2),
            }
            for cost in plan.features
        ],
        "prediction": _prediction_json(plan.prediction),
        "measured": measurements.as_json()["measured"],
    }


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    return {
        "qps": prediction.qps,
        **{f"p{percent}_ms": _finite(prediction.times.percentile(percent) * 1000, 2) for percent in _PERCENTILES},
        "capacity": round(prediction.capacity, 3),
        "saturating": prediction.saturating,
        "stages": {
            stage: {
                "replicas": state.replicas,
                "use": round(state.use, 4),
                "mean_ms": round(state.mean_seconds * 1000, 3),
                "p99_ms": _finite(state.p99_seconds * 1000, 3),
                "in_flight": round(state.in_flight, 3),
                "queued_tokens": round(state.queued_tokens, 1),
                "cpu": round(state.cpu, 3),
            }
            for stage, state in prediction.stages.items()
        },
    }


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=None, header_style="dim", padding=(0, 2, 0, 0))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}" if math.isfinite(seconds) else "no end"


def _finite(value: float, digits: int) -> float | None:
    """JSON knows no infinity."""
    return round(value, digits) if math.isfinite(value) else None
