"""Names of callers."""

from services.chassis.access.identity import NOBODY, Caller, caller_of, names_of, set_caller


def test_names_of_a_certificate_begin_with_the_spiffe_id() -> None:
    context = {
        "transport_security_type": [b"ssl"],
        "peer_uri": [b"spiffe://acme/gateway"],
        "peer_dns": [b"gateway", b"gateway.sluice.svc"],
        "x509_common_name": [b"a"],
    }
    assert names_of(context) == ("spiffe://acme/gateway", "dns:gateway", "dns:gateway.sluice.svc", "cn:a")


def test_no_certificate_can_be_called_as_a_key_is() -> None:
    assert names_of({"transport_security_type": [b"ssl"], "peer_uri": [b"key:admin"]}) == ("uri:key:admin",)


def test_a_plain_connection_has_no_names() -> None:
    assert names_of({"transport_security_type": [b"insecure"], "x509_common_name": [b"a"]}) == ()


def test_the_caller_is_nobody_until_it_is_set() -> None:
    assert caller_of() is NOBODY
    set_caller(Caller("key:a"))
    assert caller_of() == Caller("key:a")
    set_caller(NOBODY)
