from __future__ import annotations

import pytest

from services.chassis.access.identity import NOBODY, Caller
from services.chassis.admission.callers import fair_name, machine_of

PEER = "ipv4:10.0.0.7:41234"
ANYONE, STAGE = Caller("key:a"), Caller("spiffe://acme/gateway", frozenset({"gateway"}))


@pytest.mark.parametrize(
    ("caller", "edge", "name"),
    [
        (ANYONE, True, "key:a"),
        (ANYONE, False, "key:a"),
        (STAGE, False, "key:other"),
        (NOBODY, False, "key:other"),
        (NOBODY, True, "ipv4:10.0.0.7"),
    ],
)
def test_a_call_is_believed_for_whom_it_is_made_if_a_stage_makes_it(caller: Caller, edge: bool, name: str) -> None:
    assert fair_name(caller, "key:other", PEER, edge=edge) == name


def test_a_call_that_names_nobody_is_its_callers_own() -> None:
    assert fair_name(STAGE, "", PEER, edge=False) == "spiffe://acme/gateway"
    assert fair_name(NOBODY, "", PEER, edge=False) == "ipv4:10.0.0.7"


def test_identities_that_are_no_metadata_get_a_name_that_is() -> None:
    names = {fair_name(Caller(identity), "", PEER, edge=True) for identity in ("cn:Zoë", "cn:a b", "k" * 200)}
    assert len(names) == 3
    assert all(name.isascii() and name.isalnum() for name in names)


@pytest.mark.parametrize(
    ("peer", "machine"),
    [("ipv4:10.0.0.7:1", "ipv4:10.0.0.7"), ("ipv6:%5B::1%5D:1", "ipv6:%5B::1%5D"), ("unix:/tmp/a", "unix:/tmp/a")],
)
def test_a_machine_has_no_port(peer: str, machine: str) -> None:
    assert machine_of(peer) == machine
