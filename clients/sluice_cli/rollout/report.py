"""Writing of reviews as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape

from sluice_cli.calls import Problem, plain, words
from sluice_cli.rollout import views
from sluice_cli.rollout.plots import Plot, plots
from sluice_cli.rollout.review import TAKEN_BACK, review
from sluice_client import RolloutReport

_TEMPLATES = resources.files("sluice_cli.rollout") / "templates"
_MARKUP = frozenset("\\`*_[]<>|#")
_GLOSSARY = (
    (
        "Evidence",
        "The logarithm of an e-value: how strongly the bad events say that treatment is worse than control. An e-value "
        "is valid however often one looks at it (Lindon and Malek 2022, arXiv 2011.03567), so there was no "
        "planned end to wait for. At its threshold the feature is taken back; a feature that is not worse gets there "
        "in one ramp of twenty at most, over all guardrails.",
    ),
    (
        "Users hit",
        "Users with at least one bad event. Only the first of each user is evidence, so that a few heavy users cannot "
        "decide for all.",
    ),
    (
        "Intervals",
        "95 %. Rates by Wilson's score interval, their difference by Newcombe's method 10 (1998), percentiles and "
        "their increase by a bootstrap of 2,000 draws from the histogram of latencies, whose buckets are a tenth wide.",
    ),
    (
        "Met, missed, open",
        "Met: the whole interval is within what the plan allows. Missed: the whole interval is beyond it. Open: there "
        "were too few requests to tell.",
    ),
    (
        "On all gateways",
        "Time from the decision until every live gateway had said that it serves it.",
    ),
)


def write(found: RolloutReport, *, html: Path | None = None, markdown: Path | None = None) -> list[Path]:
    """Write a review to files, and return them. Raises Problem."""
    files: dict[Path, str] = {}
    if html is not None:
        files[html] = _page_of(found)
    if markdown is not None:
        pictures = plots(found)
        files |= {markdown.with_name(f"{markdown.stem}-{plot.name}.svg"): plot.svg for plot in pictures}
        files[markdown] = markdown_of(found, [(plot, f"{markdown.stem}-{plot.name}.svg") for plot in pictures])
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Problem(f"{path} cannot be written: {error.strerror or error}", "name another file") from None
    return list(files)


def markdown_of(found: RolloutReport, pictures: Sequence[tuple[Plot, str]] = ()) -> str:
    """Write a review in Markdown; `pictures` are plots with their files."""
    return _rendered("review.md.j2", found, pictures)


def _page_of(found: RolloutReport) -> str:
    pictures = plots(found)
    return _rendered("review.html.j2", found, [(plot, plot.svg[plot.svg.index("<svg") :]) for plot in pictures])


def _rendered(template: str, found: RolloutReport, pictures: Sequence[tuple[Plot, str]]) -> str:
    source = (_TEMPLATES / template).read_text(encoding="utf-8")
    environment = Environment(
        # The name decides whether text is escaped.
        autoescape=select_autoescape(["html.j2"]),
        loader=DictLoader({template: source}),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": _cell,
        "clock": views.clock,
        "action": words,
        "share": views.share_words,
        "done": views.done_words,
    }
    return environment.get_template(template).render(
        review=review(found, datetime.now(UTC)), plots=pictures, glossary=_GLOSSARY, taken_back=TAKEN_BACK
    )


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return "".join(f"\\{character}" if character in _MARKUP else character for character in plain(text))
