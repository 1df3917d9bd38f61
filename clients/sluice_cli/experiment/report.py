"""Writing of reviews of experiments as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path

from sluice_cli.experiment.plots import plots
from sluice_cli.experiment.review import review
from sluice_cli.reviews.pages import Pages
from sluice_client import Experiment, ExperimentReport, RolloutReport

_TEMPLATES = resources.files("sluice_cli.experiment") / "templates"
_GLOSSARY = (
    (
        "Change",
        "Difference of the arm's mean from the control's, as a share of the control's mean. Means are over users: "
        "first the mean of each user's answers, then the mean of all users, so that an active user counts no more than "
        "others.",
    ),
    (
        "Interval",
        "The true change lies in it, at all times together, with the probability that the plan asks for (95 % if it "
        "says nothing). So one may look as often as one likes, and stop as soon as it is decided (Waudby-Smith and "
        "others 2024).",
    ),
    (
        "Preference",
        "Of interleaved answers. Each result that both arms do not agree on belongs to one arm's team. An answer's "
        "credit is (results used of the new arm - results used of the control) / (both); a user's is the mean of "
        "theirs. 0 % is no preference, +100 % means that only the new arm's results were used.",
    ),
    (
        "Better, worse, as good, open",
        "Better or worse: the whole interval is on one side of zero; for a guarded metric, worse means more than the "
        "plan allows, and not worse that this is excluded. As good: a change that matters is excluded. Open: it may be "
        "either.",
    ),
    (
        "Verdict",
        "Ship: the metric that decides is better, and no guardrail is broken. Stop: it is worse, a guardrail is "
        "broken, or users did not fall into the arms as they must. Inconclusive: a change that matters is excluded, or "
        "the time is over. Go on: none of these yet.",
    ),
    (
        "Evidence of guardrails",
        "The logarithm of an e-value: how strongly failed, empty and slow answers speak against the arm. Of each user "
        "only the first bad answer counts. At the threshold the experiment is stopped.",
    ),
)


@dataclass(frozen=True, slots=True)
class Material:
    """All that a review is made of."""

    report: ExperimentReport
    others: Sequence[Experiment] = ()
    """Experiments that compare the same flags."""
    rollouts: Sequence[RolloutReport] = ()
    """Rollouts of features that set the same flags."""


def write(found: Material, *, html: Path | None = None, markdown: Path | None = None) -> list[Path]:
    """Write a review to files, and return them. Raises Problem."""
    return _pages(found).write(partial(plots, found.report), html=html, markdown=markdown)


def markdown_of(found: Material) -> str:
    """Write a review in Markdown, without plots."""
    return _pages(found).markdown()


def _pages(found: Material) -> Pages:
    content = review(found.report, found.others, found.rollouts, datetime.now(UTC))
    return Pages(_TEMPLATES, "review", {"review": content, "glossary": _GLOSSARY})
