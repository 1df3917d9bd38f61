"""Bearer tokens: JWT of an issuer, checked by its public keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from services.chassis.access.callers import Callers, Unreadable
from services.chassis.access.identity import Caller

ALGORITHMS = ("EdDSA", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")
"""Algorithms that a token may be signed by. All have a public key: a stage that checks tokens cannot make one."""
_LEEWAY_SECONDS = 10
_MOST_CHARACTERS = 200
_OURS = frozenset({"iss", "aud", "sub", "roles", "tenant"})


class Refused(Exception):
    """A token is not taken. The text says why, without quoting it."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The keys of an issuer, and what its tokens must say."""

    issuer: str
    audience: str
    keys: Mapping[str, jwt.PyJWK]
    """By key id; the empty id for the only key of a set, if it has none."""

    @classmethod
    def read(cls, raw: bytes, issuer: str, audience: str) -> Tokens:
        """Read a key set (RFC 7517). Raises Unreadable."""
        try:
            listed = json.loads(raw)["keys"]
            keys = [jwt.PyJWK(key) for key in listed if isinstance(key, dict) and key.get("use", "sig") == "sig"]
        except (ValueError, KeyError, TypeError, jwt.PyJWTError):
            raise Unreadable("is no JSON Web Key Set") from None
        usable = [key for key in keys if key.algorithm_name in ALGORITHMS]
        if not usable:
            raise Unreadable(f"has no public key for any of {', '.join(ALGORITHMS)}")
        if len(usable) > 1 and not all(key.key_id for key in usable):
            raise Unreadable("has several keys, and not each has a kid")
        return cls(issuer, audience, {key.key_id or "": key for key in usable})

    def check(self, token: str, callers: Callers) -> tuple[Caller, float]:
        """Return the caller that a token speaks of, and the Unix time at which it expires. Raises Refused.

        The claim `sub` is the caller's name, `roles` has its roles, as a list or separated by blanks, and `tenant` its
        tenant. Other claims that are texts are handed to policies.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self.keys.get(kid)
            if key is None:
                raise Refused("it is signed by a key that is not known here")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                # The algorithm is that of the key, whatever the token says.
                algorithms=[key.algorithm_name],
                issuer=self.issuer,
                audience=self.audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise Refused("it has expired") from None
        except (jwt.InvalidIssuerError, jwt.InvalidAudienceError):
            raise Refused("it is for another service, or by another issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Refused("it is no valid token") from None
        attributes = {name: value for name, value in claims.items() if name not in _OURS and isinstance(value, str)}
        tenant = claims.get("tenant", "")
        # Both are written into logs and histories, for people to read.
        if not (_is_name(claims["sub"]) and (tenant == "" or _is_name(tenant))):
            raise Refused("its sub or tenant is no name: at most 200 printable characters")
        caller = callers.of_claims(f"jwt:{claims['sub']}", _roles(claims.get("roles", ())), tenant, attributes)
        return caller, float(claims["exp"]) + _LEEWAY_SECONDS


def _is_name(claim: object) -> bool:
    return isinstance(claim, str) and 0 < len(claim) <= _MOST_CHARACTERS and claim.isprintable()


def _roles(claim: object) -> Sequence[str]:
    if isinstance(claim, str):
        return claim.split()
    return [one for one in claim if isinstance(one, str)] if isinstance(claim, list) else []
