"""Policies in Cedar, and the decisions by them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cedarpy

from services.chassis.access.callers import Callers, Unreadable, owns
from services.chassis.access.identity import Caller
from services.chassis.access.rpcs import GROUPS, RPCS, Rpc

DEFAULT_POLICY = Path(__file__).parent / "policies" / "default.cedar"

_FILTER = re.compile(r"([A-Za-z0-9_-]{1,64}) == (?:principal\.(tenant|identity|tag\.\S+)|\"([^\"]+)\")")
# Searches name few collections. More are a caller that tries names.
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Condition:
    """Metadata that documents must have for the caller to see or change them."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision on a call."""

    allowed: bool
    policies: tuple[str, ...] = ()
    """Ids of the policies that decided; none where no policy permits it."""
    conditions: tuple[Condition, ...] = ()
    """Conditions on documents, of all policies that permit it; all must hold."""


@dataclass(frozen=True, slots=True)
class _Annotated:
    name: str
    permits: bool
    filter: re.Match[str] | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A set of policies, and the callers whose collections and tags it speaks of."""

    _set: cedarpy.PolicySet
    _annotated: Mapping[str, _Annotated]
    _callers: Callers
    _decided: dict[tuple[Caller, str, str | None], Decision] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: bytes, callers: Callers) -> Policy:
        """Read the text of policies. Raises Unreadable."""
        try:
            text = raw.decode()
            parsed = cedarpy.PolicySet.from_str(text)
            static: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
        except (ValueError, UnicodeDecodeError) as error:
            raise Unreadable(f"is no Cedar: {error}") from None
        checked = cedarpy.validate_policies(text, schema())
        if not checked.validation_passed:
            raise Unreadable("; ".join(str(error) for error in checked.errors))
        if not static:
            raise Unreadable("has no policy")
        return cls(parsed, {name: _annotated(name, one) for name, one in static.items()}, callers)

    def decide(self, caller: Caller, rpc: Rpc, collection: str | None) -> Decision:
        """Decide on a call about a collection, or about none."""
        key = (caller, rpc.action, collection)
        known = self._decided.get(key)
        if known is None:
            if len(self._decided) >= _MOST_REMEMBERED:
                self._decided.clear()
            known = self._decided[key] = self._decide(caller, rpc, collection)
        return known

    def _decide(self, caller: Caller, rpc: Rpc, collection: str | None) -> Decision:
        principal = {"type": "Caller", "id": caller.identity}
        action = {"type": "Action", "id": rpc.action}
        name = rpc.service.rpartition(".")[2] if collection is None else collection
        resource = {"type": "Service" if collection is None else "Collection", "id": name}
        tags = [] if collection is None else self._callers.tags_of(collection)
        parents = [("Role", role) for role in caller.roles] + ([("Tenant", caller.tenant)] if caller.tenant else [])
        result = cedarpy.is_authorized(
            {
                "principal": principal,
                "action": action,
                "resource": resource,
                "context": {"own": collection is None or owns(caller, collection)},
            },
            self._set,
            [
                {
                    "uid": principal,
                    "attrs": {"identity": caller.identity, "tenant": caller.tenant},
                    "tags": dict(caller.attributes),
                    "parents": [{"type": kind, "id": one} for kind, one in parents],
                },
                _action(rpc),
                {
                    "uid": resource,
                    "attrs": {"name": name},
                    "parents": [{"type": "Tag", "id": tag} for tag in tags],
                },
            ],
        )
        # A policy that cannot be evaluated might have been a forbid.
        if result.diagnostics.errors:
            return Decision(False, tuple(f"error: {error}" for error in result.diagnostics.errors))
        reasons = sorted((self._annotated[one] for one in result.diagnostics.reasons), key=lambda one: one.name)
        names = tuple(reason.name for reason in reasons)
        if not result.allowed:
            return Decision(False, names)
        conditions = [_condition(reason.filter, caller) for reason in reasons if reason.filter]
        kept = rpc.filter_field or rpc.by_id or rpc.group == "overview"
        if conditions and not (kept and all(one.value for one in conditions)):
            # The RPC knows no single documents, or the caller has no value: nothing is his.
            return Decision(False, names)
        return Decision(True, names, tuple(dict.fromkeys(conditions)))


def _annotated(name: str, policy: Mapping[str, Any]) -> _Annotated:
    annotations = policy.get("annotations", {})
    given = annotations.get("filter")
    found = None if given is None else _FILTER.fullmatch(given)
    if given is not None and (found is None or policy["effect"] != "permit"):
        raise Unreadable(f"policy {annotations.get('id', name)}: a filter is FIELD == principal.tenant, on a permit")
    return _Annotated(annotations.get("id", name), policy["effect"] == "permit", found)


def _condition(found: re.Match[str], caller: Caller) -> Condition:
    name, attribute, literal = found.groups()
    if literal:
        return Condition(name, literal)
    if attribute.startswith("tag."):
        return Condition(name, dict(caller.attributes).get(attribute.removeprefix("tag."), ""))
    return Condition(name, caller.tenant if attribute == "tenant" else caller.identity)


def _action(rpc: Rpc) -> dict[str, Any]:
    parents = (rpc.group, rpc.action.partition("/")[0])
    return {
        "uid": {"type": "Action", "id": rpc.action},
        "attrs": {},
        "parents": [{"type": "Action", "id": one} for one in parents],
    }


@cache
def schema() -> str:
    """The schema that policies are checked by, as JSON, so that a wrong name of an action is found."""
    applies = {
        "principalTypes": ["Caller"],
        "resourceTypes": ["Collection", "Service"],
        "context": {"type": "Record", "attributes": {"own": {"type": "Boolean"}}},
    }
    named = {"shape": {"type": "Record", "attributes": {"name": {"type": "String"}}}}
    who = {"identity": {"type": "String"}, "tenant": {"type": "String"}}
    services = {rpc.action.partition("/")[0] for rpc in RPCS.values()}
    actions: dict[str, Any] = {name: {} for name in (*GROUPS, *sorted(services))}
    for rpc in RPCS.values():
        actions[rpc.action] = {
            "memberOf": [{"id": rpc.group}, {"id": rpc.action.partition("/")[0]}],
            "appliesTo": applies,
        }
    return json.dumps(
        {
            "": {
                "entityTypes": {
                    "Caller": {
                        "memberOfTypes": ["Role", "Tenant"],
                        "shape": {"type": "Record", "attributes": who},
                        "tags": {"type": "String"},
                    },
                    "Role": {},
                    "Tenant": {},
                    "Tag": {},
                    "Collection": {"memberOfTypes": ["Tag"], **named},
                    "Service": {"memberOfTypes": ["Tag"], **named},
                },
                "actions": actions,
            }
        }
    )
