"""The file of callers."""

import hashlib

import pytest

from services.chassis.access.callers import Callers, Unreadable, owns

SECRET = "sluice_" + "k" * 43
FILE = f"""
[[key]]
name = "nightly"
sha256 = "{hashlib.sha256(SECRET.encode()).hexdigest()}"
roles = ["reader", "writer"]
tenant = "blue"

[[key]]
name = "old"
sha256 = "{hashlib.sha256(b"sluice_old").hexdigest()}"
roles = ["reader"]
expires = 2020-01-01T00:00:00Z

[[certificate]]
name = "spiffe://acme/*/gateway"
roles = ["gateway"]

[tenants.blue]
collections = ["blue-*", "shared"]

[tags]
public = ["manual", "news-*"]
"""


def test_a_key_is_known_by_its_hash_and_has_the_collections_of_its_tenant() -> None:
    found = Callers.read(FILE.encode()).of_key(SECRET)
    assert found is not None
    caller, expires = found
    assert (caller.identity, caller.roles, caller.tenant) == ("key:nightly", {"reader", "writer"}, "blue")
    assert expires is None
    assert [name for name in ("blue-1", "shared", "red-1", "blue") if owns(caller, name)] == ["blue-1", "shared"]


@pytest.mark.parametrize("key", ["sluice_old", "sluice_unknown", ""])
def test_a_key_that_expired_or_is_unknown_is_nobodys(key: str) -> None:
    assert Callers.read(FILE.encode()).of_key(key) is None


def test_a_certificate_is_known_by_any_of_its_names() -> None:
    callers = Callers.read(FILE.encode())
    known = callers.of_certificate(["dns:gateway", "spiffe://acme/ns/gateway"])
    assert (known.identity, known.roles) == ("spiffe://acme/ns/gateway", {"gateway"})
    assert callers.of_certificate(["dns:other", "cn:x"]).identity == "dns:other"
    assert not callers.of_certificate(["dns:other"]).roles


def test_a_caller_of_a_tenant_that_is_not_in_the_file_owns_nothing_and_one_without_a_tenant_everything() -> None:
    callers = Callers.read(FILE.encode())
    assert not owns(callers.of_claims("jwt:a", ["reader"], "red", {}), "red-1")
    assert owns(callers.of_claims("jwt:a", ["reader"], "", {}), "red-1")


def test_a_collection_has_the_tags_whose_patterns_fit() -> None:
    callers = Callers.read(FILE.encode())
    assert callers.tags_of("news-2026") == ["public"]
    assert callers.tags_of("papers") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[key]", "no TOML"),
        ('[[key]]\nname = "a"\nroles = []', "key.0.sha256"),
        ('[[key]]\nname = "a"\nsha256 = "aa"\nroles = []', "key.0.sha256"),
        ('[[certificate]]\nname = "gateway"\nroles = []', "certificate.0.name"),
        ("[keys]", "keys: Extra inputs"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = []\n' * 2, "several keys named a"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = []\nexpires = 2027-01-01T00:00:00', "needs a time zone"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        Callers.read(text.encode())


def test_a_pattern_knows_the_star_alone() -> None:
    callers = Callers.read(b'[tags]\na = ["x?[yz]"]')
    assert callers.tags_of("x?[yz]") == ["a"]
    assert callers.tags_of("xay") == []
