"""Text of others in every shown field: it is shown as it is, and changes nothing around it."""

from __future__ import annotations

import dataclasses
import io
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from rich.console import RenderableType

from sluice.type.v1 import collection_pb2
from sluice_cli.calls import Screen, plain
from sluice_cli.collections.versions import checks_view, versions_view
from sluice_cli.operations.config import config_view
from sluice_cli.rollout import views
from sluice_cli.search.answer import answer_view
from sluice_cli.search.compare import comparison_view
from sluice_cli.search.facets import counts_view
from sluice_client import (
    Answer,
    CollectionVersion,
    Comparison,
    Config,
    Counts,
    Features,
    FeatureState,
    FeatureStatus,
    FieldCounts,
    FieldType,
    Gateway,
    Highlight,
    LimitEvidence,
    ListedVersion,
    Passage,
    QuarantinedFeature,
    Result,
    Scores,
    ValueCount,
    VersionCheck,
    VersionCheckKind,
    features,
)
from tests.unit.clients.rollout_examples import rolled_back

_PIECES = [
    *("[", "]", "[/]", "[/bold]", "[bold]", "[red]", "[link=http://x]", "[/link]", "\\[", "[@click=f()]", "[a=b]"),
    *(":smile:", ":x:", "\x1b[31m", "\x1b]8;;http://x\x07", "\x07", "\x08", "\r", "\n", "\t", "\u2028", "\u202e"),
    *("a", "List of types", " ", "%s", "{x}", "$(id)", "\u6771", "\x9b", "\x00", "\u200b", "\U0001f600", "--yes", "#"),
]  # fmt: skip
_chance = random.Random(15)
HOSTILE = [
    "List[/] of types", "see [/ticket]",
    *("".join(_chance.choices(_PIECES, k=_chance.randint(1, 8))) for _ in range(498)),
]  # fmt: skip


def _with_texts(value: Any, text: str) -> Any:
    """A copy with this text in every field that holds text of others."""
    if type(value) is str:
        return text
    if isinstance(value, tuple | list):
        return [_with_texts(one, text) for one in value]
    if isinstance(value, dict):
        return dict.fromkeys([text], _with_texts(next(iter(value.values()), text), text))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Features):
        fields = {field.name: _with_texts(getattr(value, field.name), text) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


_VERSION = CollectionVersion.from_proto(
    collection_pb2.CollectionVersion(
        collection="c",
        version="c-v1",
        live=True,
        model={"name": "m", "dimension": 3, "precision": "fp32"},
        lexical_settings="bm25",
        source="written",
        building_version="c-v2",
    )
)
_ANSWER = Answer(
    results=[
        Result(Passage("id", "id", "title", "text", {"field": "value"}), 0.5, 1, Scores(0.5, 1, None)),
        Result(
            Passage("id", "id", "title", "text", {}), 0.4, 2, Scores(0.4, 2, None), highlights=[Highlight(1, 40, 0.5)]
        ),
    ],
    stages=[],
    next_page_token="",
    features=features(dense=True),
    collection="c",
    index_version="c-v1",
    request_id="r",
)


_REPORT = rolled_back()
_COMPARED = Comparison(_ANSWER, _ANSWER, timedelta(1), timedelta(1), 10, 1.0, 1.0, 0.9)
_VIEWS: dict[str, tuple[Any, Callable[[Any], RenderableType]]] = {
    "search": (_ANSWER, lambda answer: answer_view(answer, explain=True)),
    "compare": (_COMPARED, comparison_view),
    "facets": (
        Counts([FieldCounts("f", FieldType.KEYWORD, [ValueCount("a", 1)])], 2, "c", "c-v1"),
        counts_view,
    ),
    "collections": ([ListedVersion(_VERSION, True)], versions_view),
    "verify": ([VersionCheck(VersionCheckKind.UNKNOWN, True, "fine")], checks_view),
    "config": (Config(features(), [], _VERSION, "1"), lambda config: config_view(config, config.release)),
    "history": (list(_REPORT.history), views.history_view),
    "rollouts": ([_REPORT.feature], views.features_view),
    "status": (
        FeatureStatus(
            dataclasses.replace(_REPORT.feature, state=FeatureState.RAMPING),
            guardrails=_REPORT.steps[0].guardrails,
            arms=_REPORT.steps[0].arms,
            limits=[LimitEvidence("errors", 1, 0.05, 1.5, 4.38)],
            obstacles=["not enough requests"],
        ),
        views.status_view,
    ),
    "gateways": (
        [Gateway("g", 1, None, True, [QuarantinedFeature("f", "r")], ["k"])],
        lambda seen: views.gateways_view(seen, 2),
    ),
    "plan": (_REPORT.feature.plan, lambda plan: views.plan_view(plan, Features())),
}


def _shown(view: RenderableType) -> str:
    stream = io.StringIO()
    Screen(file=stream, width=400, force_terminal=False).print(view)
    return stream.getvalue()


@pytest.mark.parametrize("name", _VIEWS)
def test_five_hundred_hostile_texts_change_nothing_around_them(name: str) -> None:
    value, view = _VIEWS[name]
    quiet = _shown(view(_with_texts(value, "quiet")))
    for text in HOSTILE:
        shown = _shown(view(_with_texts(value, text)))
        assert all(character.isprintable() or character == "\n" for character in shown), text
        if plain(text).strip():
            assert shown.count("\n") == quiet.count("\n"), text
        if "quiet" in quiet:
            assert plain(text).strip() in shown, text


@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii", "cp1252"])
def test_a_terminal_that_lacks_characters_gets_others_for_them(encoding: str) -> None:
    program = (
        "from sluice_cli.calls import stdout, say_warning; stdout.print('\u6771\u4eac \u25b2 é'); say_warning('\u20ac')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.decode(encoding).startswith("?? ?")
    assert b"Traceback" not in ended.stderr
