"""Decisions by policies."""

from __future__ import annotations

import pytest

from services.chassis.access.callers import Callers, Unreadable
from services.chassis.access.identity import Caller
from services.chassis.access.policy import DEFAULT_POLICY, Condition, Policy
from services.chassis.access.rpcs import RPCS, Rpc, rpcs_named

CALLERS = Callers.read(b'[tags]\npublic = ["manual"]\n[tenants.blue]\ncollections = ["blue-*"]')
SEARCH, INDEX, REINDEX = (rpcs_named(name)[0] for name in ("Search", "IndexDocuments", "ReindexCollection"))


def caller(*roles: str, tenant: str = "", **attributes: str) -> Caller:
    return CALLERS.of_claims("jwt:a", roles, tenant, attributes)


def policy(text: str) -> Policy:
    return Policy.read(text.encode(), CALLERS)


@pytest.fixture(scope="module")
def default() -> Policy:
    return Policy.read(DEFAULT_POLICY.read_bytes(), CALLERS)


MAY = {
    "reader": {"read", "feedback", "overview"},
    "writer": {"read", "feedback", "write", "overview"},
    "operator": {"overview", "operate", "audit", "observe", "steer"},
    "auditor": {"overview", "audit", "observe"},
    "gateway": {"work", "follow"},
    "stage": set[str](),
}


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_what_its_row_says_and_nothing_else(default: Policy, role: str) -> None:
    for rpc in RPCS.values():
        collection = "papers" if rpc.collection_field else None
        assert default.decide(caller(role), rpc, collection).allowed == (rpc.group in MAY[role]), rpc.action


def test_a_caller_without_a_role_may_nothing(default: Policy) -> None:
    assert not any(default.decide(caller(), rpc, "papers").allowed for rpc in RPCS.values())


def test_a_tenants_caller_may_what_is_of_its_own_collections(default: Policy) -> None:
    blue = caller("reader", "writer", "operator", tenant="blue")
    assert [default.decide(blue, rpc, "blue-1").allowed for rpc in (SEARCH, INDEX, REINDEX)] == [True] * 3
    assert [default.decide(blue, rpc, "red-1").allowed for rpc in (SEARCH, INDEX, REINDEX)] == [False] * 3


def test_a_decision_names_its_policies(default: Policy) -> None:
    assert default.decide(caller("reader"), SEARCH, "papers").policies == ("readers-read",)
    assert default.decide(caller("reader", "writer"), SEARCH, "papers").policies == (
        "readers-read",
        "writers-read-and-write",
    )
    assert default.decide(caller("reader"), INDEX, "papers").policies == ()


def test_forbid_wins() -> None:
    read = policy("""
        permit (principal, action, resource);
        @id("not-this-one") forbid (principal, action in Action::"SearchService", resource == Collection::"papers");
    """)
    decision = read.decide(caller("reader"), SEARCH, "papers")
    assert (decision.allowed, decision.policies) == (False, ("not-this-one",))
    assert read.decide(caller("reader"), SEARCH, "others").allowed
    assert read.decide(caller("reader"), INDEX, "papers").allowed


def test_a_policy_may_speak_of_name_prefix_tag_tenant_and_of_what_a_token_says() -> None:
    read = policy("""
        permit (principal, action == Action::"SearchService/Search", resource == Collection::"one");
        permit (principal, action in Action::"read", resource) when { resource.name like "pre-*" };
        permit (principal, action in Action::"read", resource in Tag::"public");
        permit (principal in Tenant::"blue", action in Action::"write", resource);
        permit (principal, action in Action::"write", resource)
            when { principal.hasTag("team") && principal.getTag("team") == resource.name };
    """)
    nobody = caller()
    assert [read.decide(nobody, SEARCH, name).allowed for name in ("one", "pre-1", "manual", "two")] == [
        *[True] * 3,
        False,
    ]
    assert read.decide(caller(tenant="blue"), INDEX, "two").allowed
    assert read.decide(caller(team="two"), INDEX, "two").allowed
    assert not read.decide(caller(team="one"), INDEX, "two").allowed


FILTERED = '@filter("team == principal.tenant") permit (principal, action, resource);'


def decided(text: str, who: Caller, rpc: Rpc) -> tuple[Condition, ...] | None:
    decision = policy(text).decide(who, rpc, "papers")
    return decision.conditions if decision.allowed else None


def test_a_filter_is_a_condition_on_documents_and_the_conditions_of_all_policies_hold() -> None:
    blue = Condition("team", "blue")
    assert decided(FILTERED, caller(tenant="blue"), SEARCH) == (blue,)
    assert decided(FILTERED + "permit (principal, action, resource);", caller(tenant="blue"), SEARCH) == (blue,)
    two = FILTERED + '@filter("kind == \\"news\\"") permit (principal, action, resource);'
    assert decided(two, caller(tenant="blue"), INDEX) == (blue, Condition("kind", "news"))
    by_tag = '@filter("team == principal.tag.group") permit (principal, action, resource);'
    assert decided(by_tag, caller(group="x"), SEARCH) == (Condition("team", "x"),)


def test_a_filter_refuses_a_caller_without_the_value_and_calls_that_know_no_single_documents() -> None:
    assert decided(FILTERED, caller(), SEARCH) is None
    assert decided(FILTERED, caller(tenant="blue"), REINDEX) is None


def test_a_policy_that_cannot_be_evaluated_refuses() -> None:
    text = "permit (principal, action, resource); forbid (principal, action, resource) when { BIG + 1 < 0 };"
    assert not policy(text.replace("BIG", "9223372036854775807")).decide(caller(), SEARCH, "papers").allowed
    assert policy(text.replace("BIG", "1")).decide(caller(), SEARCH, "papers").allowed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("permit (principal, action", "no Cedar"),
        ("", "no policy"),
        ('permit (principal, action in Action::"reed", resource);', "reed"),
        ('permit (principal, action == Action::"SearchService/Serch", resource);', "Serch"),
        ("permit (principal, action, resource) when { resource.nam == 1 };", "nam"),
        ('@id("x") @filter("team") permit (principal, action, resource);', "policy x: a filter is"),
        ('@filter("team == principal.tenant") forbid (principal, action, resource);', "on a permit"),
    ],
)
def test_a_policy_with_a_mistake_is_refused_with_the_mistake(text: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        policy(text)
