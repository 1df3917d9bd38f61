"""Documents of User Behavior Insights 1.3, as OpenSearch keeps them in `ubi_queries` and `ubi_events`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sluice_client import AnswerFeedback, Event, Impression

APPLICATION = "sluice"
OBJECT_ID_FIELD = "passage_id"


def query_of(answer: AnswerFeedback) -> dict[str, Any]:
    """Write an answer as a document of `ubi_queries`; `client_id` is the keyed hash of the user."""
    served = answer.served
    shown = served.impression
    attributes: dict[str, Any] = {"collection": shown.collection, "first_position": shown.first_position}
    if shown.tenant:
        attributes["tenant"] = shown.tenant
    if served.ending is not None:
        attributes["ending"] = served.ending.value
    if served.duration is not None:
        attributes["seconds"] = served.duration.total_seconds()
    if served.model_token_count:
        attributes["model_tokens"] = served.model_token_count
    if shown.exposures:
        attributes["experiments"] = [
            {
                "experiment": one.experiment,
                "run_id": one.run_id,
                **({"arm": one.arm} if one.arm else {}),
                **({"teams": list(one.teams)} if one.teams else {}),
            }
            for one in shown.exposures
        ]
    return {
        "application": APPLICATION,
        "query_id": shown.query_id,
        "client_id": _user(shown),
        "user_query": served.query,
        "query_response_id": shown.query_id,
        "query_response_object_ids": list(shown.object_ids),
        "object_id_field": OBJECT_ID_FIELD,
        "query_attributes": attributes,
        "timestamp": moment(shown.time),
    }


def events_of(answer: AnswerFeedback, *, impressions: bool = False) -> Iterator[dict[str, Any]]:
    """Write what was done with an answer as documents of `ubi_events`.

    With `impressions`, each result that was shown is an event before them, as click models of others expect it.
    """
    shown = answer.served.impression
    user = _user(shown)
    if impressions:
        for place, object_id in enumerate(shown.object_ids, start=shown.first_position):
            attributes = _attributes(object_id, place)
            attributes["event_id"] = f"{shown.query_id}.{place}"
            yield {
                "application": APPLICATION,
                "action_name": "impression",
                "query_id": shown.query_id,
                "session_id": "",
                "client_id": user,
                "user_id": user,
                "timestamp": moment(shown.time),
                "event_attributes": attributes,
            }
    for event in answer.events:
        yield _event(event, shown)


def _event(event: Event, shown: Impression) -> dict[str, Any]:
    attributes = _attributes(event.object_id, event.position)
    attributes["event_id"] = event.event_id
    if event.rating is not None:
        attributes["rating"] = event.rating
    if event.aspect:
        attributes["aspect"] = event.aspect
    if event.label:
        attributes["label"] = event.label
    return {
        "application": APPLICATION,
        "action_name": event.action.value,
        "query_id": event.query_id,
        "session_id": event.session_id,
        "client_id": event.client_id or _user(shown),
        "user_id": _user(shown),
        "timestamp": moment(event.time or shown.time),
        "event_attributes": attributes,
    }


def _user(shown: Impression) -> str:
    return f"{shown.unit:016x}" if shown.unit else ""


def _attributes(object_id: str, position: int) -> dict[str, Any]:
    # The format asks for a position always; 0 is that of the whole answer.
    place: dict[str, Any] = {"position": {"ordinal": position}}
    if object_id:
        place["object"] = {"object_id": object_id, "object_id_field": OBJECT_ID_FIELD}
    return place


def moment(time: datetime) -> str:
    """Write a moment in ISO 8601, in UTC with a trailing Z, which OpenSearch asks for."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
