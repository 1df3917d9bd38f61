"""`sluice plan`: replicas, autoscalers' targets and the cost of features, simulated from measured times."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sluice_cli.calibrate import METRICS_PORTS, Wanted, calibrate
from sluice_cli.calls import (
    DONE,
    NEEDS_A_LOOK,
    WRONG_COMMAND_LINE,
    Connection,
    Problem,
    plain,
    print_json,
    say_problem,
    say_warning,
    stderr,
    stdout,
    table,
)
from sluice_plan import (
    FEATURES,
    STAGES,
    CannotHoldError,
    Feature,
    Measurements,
    Plan,
    Prediction,
    Search,
    Stack,
    Stage,
    UnfitMeasurementsError,
    size,
)

SAMPLE = "measured.json"
AIM = "autoscaler's target, per pod"
BUSY = 0.1
"""Share of the machine that others may use while it is measured."""
SILENT_SECONDS = 2.0
"""After which something is said where there is no terminal."""


async def plan(
    _connection: Connection,
    *,
    qps: float,
    p99_ms: float | None,
    features: str,
    candidates: int | None,
    max_use: float,
    shared_cores: float | None,
    measurements: Path | None,
    as_json: bool,
) -> int:
    """Plan and show; the exit code."""
    measured = _measurements(measurements)
    search, found = Search(_features(features), candidates), None
    title = f"{qps:g} searches a second" + (f", 99 % within {p99_ms:g} ms" if p99_ms else "")
    try:
        with _progress() as on_simulation:
            stack = Stack(measured, on_simulation=on_simulation)
            if shared_cores is not None:
                prediction = stack.predict_together(search, qps, shared_cores)
                title = f"One machine, {shared_cores:g} processors: {title}"
            elif p99_ms is not None:
                found = size(stack, search, qps, p99_ms, max_use)
                prediction = found.prediction
            else:
                raise Problem(
                    "the target is missing",
                    "say how soon 99 of 100 searches are to be answered, as --p99-ms 150; or, to predict what one "
                    "machine does, how many processors it has: --shared-cores",
                    exit_code=WRONG_COMMAND_LINE,
                )
    except UnfitMeasurementsError as error:
        raise Problem(str(error), "measure all of it: `sluice plan calibrate`") from error
    except CannotHoldError as error:
        if as_json:
            told = {"holds": False, "stage": error.stage, "reason": str(error), "candidates": error.candidates}
            print_json({**told, **_prediction_json(error.prediction)})
        say_problem(f"cannot be held: {title}: {error}", _ways_out(error))
        return NEEDS_A_LOOK
    holds = prediction.keeps_up and prediction.percentiles[99] <= (p99_ms or math.inf)
    if as_json:
        costs = {"cores": found.cores, "feature_costs": _feature_costs(found)} if found else {}
        origin = {"measured": measured.measured.model_dump()}
        print_json({"holds": holds, **_prediction_json(prediction), **costs, **origin})
    else:
        stdout.print(_view(prediction, title, found))
    if not prediction.keeps_up:
        say_warning(f"{qps:g} searches a second are more than {prediction.capacity:.1f}: the queues only grow")
    return DONE if holds else NEEDS_A_LOOK


async def measure(
    connection: Connection, *, output: Path, metrics: Sequence[str], wanted: Wanted, as_json: bool
) -> int:
    """Calibrate, and write the measurements; the exit code."""
    columns = (TextColumn("one search at a time"), BarColumn(), TimeRemainingColumn())
    async with connection.client() as client:
        with Progress(*columns, console=stderr) as progress:
            bar = progress.add_task("", total=None)
            measured = await calibrate(
                client, wanted, _metrics(metrics), lambda done, total: progress.update(bar, completed=done, total=total)
            )
    try:
        await asyncio.to_thread(output.write_text, measured.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(f"cannot write {output}: {error.strerror}", "name another file with --output") from error
    if as_json:
        print_json(measured.model_dump())
    else:
        stdout.print(_measured_view(measured))
        stdout.print(f"\nWritten to {output}; plan with it: --measurements {output}")
    busy = measured.measured.busy_before
    if busy > BUSY:
        say_warning(f"others used {busy:.0%} of the machine just before: measure again when it is idle")
    return NEEDS_A_LOOK if busy > BUSY else DONE


@contextmanager
def _progress() -> Iterator[Callable[[], None]]:
    """Show how many simulations are done: at once on a terminal, else one line after two seconds."""
    said, done = "Simulating searches", itertools.count(1)
    if stderr.is_terminal:
        with stderr.status(said) as status:
            yield lambda: status.update(f"{said}: {next(done)} simulations")
        return
    timer = threading.Timer(SILENT_SECONDS, lambda: stderr.print(f"{said}; up to a minute ..."))
    timer.start()
    try:
        yield lambda: None
    finally:
        timer.cancel()


def _measurements(path: Path | None) -> Measurements:
    """Those of a file, or the sample that comes with the release."""
    try:
        content = (path or resources.files("sluice_plan") / SAMPLE).read_bytes()
        found = Measurements.from_json(content)
    except OSError as error:
        raise Problem(f"cannot read {path}: {error}", "make it with `sluice plan calibrate`") from error
    except UnfitMeasurementsError as error:
        raise Problem(f"{path or SAMPLE}: {error}", "make it with `sluice plan calibrate`") from error
    if path is None:
        say_warning(
            f"planned from times measured on another machine: {_origin(found)}. Measure yours: `sluice plan calibrate`"
        )
    if found.measured.busy_before > BUSY:
        say_warning(
            f"these times were measured while others used {found.measured.busy_before:.0%} of the machine, so stages "
            "look slower than they are: measure again when it is idle"
        )
    return found


def _origin(found: Measurements) -> str:
    models = ", ".join(f"{pace.name.rpartition('/')[2]} {pace.runtime}" for pace in found.models.values())
    return f"{found.measured.machine}, {found.measured.at[:10]}, {models}, {found.measured.passages:,} passages"


def _features(given: str) -> frozenset[Feature]:
    names = {name.strip() for name in given.split(",") if name.strip()} - {"none"}
    if unknown := sorted(names - set(FEATURES)):
        raise Problem(
            f"there is no feature {unknown[0]!r}",
            f"choose of {', '.join(FEATURES)}, separated by commas, or none",
            exit_code=WRONG_COMMAND_LINE,
        )
    return frozenset(feature for feature in FEATURES if feature in names)


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


def _ways_out(error: CannotHoldError) -> str:
    fewer = [f"rerank fewer candidates (--candidates {error.candidates})"] if error.candidates else []
    faster = f"a quicker model, precision or device for the {error.stage}, measured with `sluice plan calibrate`"
    return "; or ".join([*fewer, f"allow more than --p99-ms {error.prediction.percentiles[99]:.0f}", faster])


def _view(prediction: Prediction, title: str, found: Plan | None) -> RenderableType:
    names = ["stage", "replicas", "used", "mean ms", "p50 ms", "p99 ms"]
    rows = []
    for stage, state in prediction.stages.items():
        times = (state.mean_ms, state.p50_ms, state.p99_ms)
        rows.append([stage, f"{state.replicas:,}", f"{state.use:.0%}", *map(_ms, times)])
        if found:
            aim = f"{state.signal} = {state.signal_target:,}" if state.signal else ""
            rows[-1] += [f"{state.cores:g}", str(state.cpu_percent), aim]
    names += ["cores each", "CPU %", AIM] if found else []
    percentiles = ", ".join(f"p{percent} {_ms(value)} ms" for percent, value in prediction.percentiles.items())
    most = f"\nAt most {prediction.capacity:,.1f} searches a second; the {prediction.saturating} gives way first"
    parts: list[RenderableType] = [
        _table(title, names, rows),
        Text.assemble("\nExpected: ", (percentiles, "bold"), most),
    ]
    if found and found.without:
        names = ["feature", "replicas", "cores", "of all", "mean ms", "p99 ms"]
        rows = [
            [cost["feature"], f"{cost['replicas']:+,}", f"{cost['cores']:+,.0f}", f"{cost['cores'] / found.cores:.0%}",
             f"{cost['mean_ms']:+.1f}", f"{cost['p99_ms']:+.1f}"]
            for cost in _feature_costs(found)
        ]  # fmt: skip
        parts.append(_table("\nWhat each feature costs", names, rows))
    if found:
        parts.append(Text(f"\n{found.cores:,.0f} cores in all", style="bold"))
    return Group(*parts)


def _feature_costs(plan: Plan) -> list[dict[str, Any]]:
    """Costs that each feature adds to a plan."""
    return [
        {
            "feature": feature,
            "replicas": plan.replicas - without.replicas,
            "cores": plan.cores - without.cores,
            "mean_ms": plan.prediction.mean_ms - without.prediction.mean_ms,
            "p99_ms": plan.prediction.percentiles[99] - without.prediction.percentiles[99],
        }
        for feature, without in plan.without.items()
    ]


def _measured_view(found: Measurements) -> RenderableType:
    rows = []
    for cost in found.searches:
        stages = (cost.stages.get(stage) for stage in STAGES)
        cells = (f"{one.wall_ms:.1f} ({one.cpu_ms:.1f} cpu)" if one else "" for one in stages)
        rows.append([", ".join(cost.features) or "none", f"{cost.wall_ms:.1f}", *cells])
    return _table(plain(_origin(found)), ["features", "a search, ms", *STAGES], rows)


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    stages = {
        stage: {name: _finite(value) for name, value in asdict(state).items()}
        for stage, state in prediction.stages.items()
    }
    percentiles = {f"p{percent}_ms": _finite(value) for percent, value in prediction.percentiles.items()}
    capacity = {"capacity": _finite(prediction.capacity), "saturating": prediction.saturating}
    return {"qps": prediction.qps, **percentiles, **capacity, "stages": stages}


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = table(*names, title=title, right=frozenset(names[1:]) - {AIM})
    for row in rows:
        made.add_row(*row)
    return made


def _ms(value: float) -> str:
    return f"{value:,.1f}" if math.isfinite(value) else "no end"


def _finite(value: Any) -> Any:
    """A value for JSON, which knows no infinity."""
    if not isinstance(value, float):
        return value
    return round(value, 3) if math.isfinite(value) else None
