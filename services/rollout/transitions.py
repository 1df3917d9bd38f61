"""Changes of a feature that operators command and that the evidence decides. Pure.

A transition takes a feature as it is and returns it as it will be, with the action for the history. It raises
FailedPrecondition where the feature's state does not allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from services.chassis.errors import FailedPrecondition
from services.experiment.bucketing import BUCKETS
from services.rollout.features import Feature, FeatureState, HistoryAction, HoldCause, check_feature
from services.rollout.plans import Plan

Changed = tuple[Feature, HistoryAction]
Transition = Callable[[Feature], Changed]

_EXPOSED = (FeatureState.RAMPING, FeatureState.HELD, FeatureState.COMPLETE)
_OFF = (FeatureState.ROLLED_BACK, FeatureState.KILLED)


def start(feature: Feature, plan: Plan) -> Changed:
    """Begin a plan's first step."""
    if feature.state is not FeatureState.READY:
        raise not_ready(feature)
    check_feature(feature)
    after = replace(feature, plan=plan, step=1, treatment_ppm=plan.share(1), state=FeatureState.RAMPING)
    return after, HistoryAction.STARTED


def next_step(feature: Feature) -> Changed:
    """Go on to the plan's next step; without one, complete."""
    after = replace(feature, state=FeatureState.RAMPING, hold_cause=None)
    step = feature.plan.step_after(feature.treatment_ppm) if feature.plan else None
    if feature.plan is None or step is None:
        return replace(after, state=FeatureState.COMPLETE), HistoryAction.COMPLETED
    return replace(after, step=step, treatment_ppm=feature.plan.share(step)), HistoryAction.PROMOTED


def hold(feature: Feature, cause: HoldCause | None = HoldCause.PERSON) -> Changed:
    """Keep the share where it is, until a person promotes or the cause ends."""
    if not feature.watched:
        raise not_ramping(feature)
    return replace(feature, state=FeatureState.HELD, hold_cause=cause), HistoryAction.HELD


def resume(feature: Feature) -> Changed:
    """Go on with a ramp that was held."""
    return replace(feature, state=FeatureState.RAMPING, hold_cause=None), HistoryAction.RESUMED


def set_share(feature: Feature, treatment_ppm: int) -> Changed:
    """Set the share by hand and keep it there: none is ready, all is complete, and between it is held and watched."""
    if feature.state in _OFF:
        raise not_ready(feature)
    after = replace(feature, treatment_ppm=treatment_ppm, hold_cause=None)
    if treatment_ppm == 0:
        after = replace(after, state=FeatureState.READY, plan=None, step=0)
    elif treatment_ppm == BUCKETS:
        after = replace(after, state=FeatureState.COMPLETE)
    else:
        after = replace(after, state=FeatureState.HELD, hold_cause=HoldCause.PERSON)
    return after, HistoryAction.SHARE_SET


def halve(feature: Feature, cause: HoldCause = HoldCause.PERSON) -> Changed:
    """Halve the share and keep it there: the users who came last leave first."""
    if feature.state not in _EXPOSED or not feature.treatment_ppm:
        raise not_ramping(feature)
    share = feature.treatment_ppm // 2
    if share == 0:
        return roll_back(feature)
    return replace(feature, treatment_ppm=share, state=FeatureState.HELD, hold_cause=cause), HistoryAction.HALVED


def roll_back(feature: Feature) -> Changed:
    """Take the feature back from all users."""
    if feature.state is FeatureState.KILLED:
        raise FailedPrecondition(f"{feature.name!r} is killed, which is more", reason="KILLED", feature=feature.name)
    return _without_users(feature, FeatureState.ROLLED_BACK), HistoryAction.ROLLED_BACK


def kill(feature: Feature) -> Changed:
    """Switch the feature off for all users, whatever a request asks for."""
    return _without_users(feature, FeatureState.KILLED), HistoryAction.KILLED


def rearm(feature: Feature) -> Changed:
    """Let a feature that was rolled back or killed be started again."""
    if feature.state not in _OFF:
        raise FailedPrecondition(
            f"{feature.name!r} is {_words(feature.state)}: only what was rolled back or killed is armed again",
            reason="NOT_ROLLED_BACK",
            feature=feature.name,
        )
    return replace(feature, state=FeatureState.READY, plan=None, step=0, breach_count=0), HistoryAction.REARMED


def not_ready(feature: Feature) -> FailedPrecondition:
    """The error for a feature that cannot be started now, with the remedy."""
    reason, remedy = {
        FeatureState.KILLED: ("KILLED", "arm it again first"),
        FeatureState.ROLLED_BACK: ("NEEDS_REARM", "arm it again first"),
        FeatureState.COMPLETE: ("COMPLETE", "it reaches all users already"),
    }.get(feature.state, ("ALREADY_RAMPING", "hold it, set its share, or roll it back"))
    return FailedPrecondition(
        f"{feature.name!r} is {_words(feature.state)}: {remedy}", reason=reason, feature=feature.name
    )


def not_ramping(feature: Feature) -> FailedPrecondition:
    """The error for a feature that is not on its way to users."""
    if feature.state in _OFF:
        return not_ready(feature)
    state = "has no plan under way" if feature.watched else f"is {_words(feature.state)}"
    return FailedPrecondition(f"{feature.name!r} {state}", reason="NOT_RAMPING", feature=feature.name)


def _without_users(feature: Feature, state: FeatureState) -> Feature:
    return replace(feature, treatment_ppm=0, state=state, hold_cause=None)


def _words(state: FeatureState) -> str:
    return state.value.replace("_", " ")
