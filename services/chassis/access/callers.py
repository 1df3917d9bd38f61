"""The file of callers: keys, certificates, tenants and tags, as TOML.

    [[key]]                          # made by `sluice access key new`
    name = "nightly-index"           # its identity is key:nightly-index
    sha256 = "5e884898da28..."
    roles = ["writer"]
    tenant = "blue"                  # none if left out
    collections = ["blue-*"]         # those of the tenant if left out; without a tenant, all
    expires = 2027-01-01T00:00:00Z   # never if left out

    [[certificate]]
    name = "spiffe://acme/ns/sluice/sa/gateway"    # or dns:gateway, cn:caller; may hold *
    roles = ["gateway"]

    [tenants.blue]
    collections = ["blue-*", "shared"]

    [tags]                           # parents of collections, for policies
    public = ["manual", "news-*"]

A key is 256 random bits, which nobody guesses. So a plain SHA-256 keeps it as safe as a slow hash would, and a caller
who sends wrong keys costs a microsecond each.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.chassis.access.identity import Caller

KEY_PREFIX = "sluice_"
"""Beginning of every key, by which programs that look for secrets find it, and which no other token has."""

Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Unreadable(Exception):
    """A file of access control cannot be used; the text says why, without its content."""


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Granted(_Row):
    roles: tuple[Role, ...]
    tenant: str = ""
    collections: tuple[str, ...] = ()


class _Key(_Granted):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: datetime | None = None


class _Certificate(_Granted):
    name: Annotated[str, Field(pattern=r"^(spiffe:|dns:|cn:|uri:).+$")]


class _Tenant(_Row):
    collections: tuple[str, ...]


class _Content(_Row):
    key: tuple[_Key, ...] = ()
    certificate: tuple[_Certificate, ...] = ()
    tenants: Mapping[Name, _Tenant] = {}
    tags: Mapping[Name, tuple[str, ...]] = {}


class Callers:
    """The callers of a file."""

    def __init__(self, content: _Content | None = None) -> None:
        self._content = content or _Content()
        self._keys = {key.sha256: key for key in self._content.key}

    @classmethod
    def read(cls, raw: bytes) -> Callers:
        """Read the content of a file. Raises Unreadable."""
        try:
            content = _Content.model_validate(tomllib.loads(raw.decode()))
        except ValidationError as error:
            places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise Unreadable(places) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise Unreadable("is no TOML") from None
        names = [key.name for key in content.key]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Unreadable(f"has several keys named {', '.join(twice)}")
        for key in content.key:
            if key.expires is not None and key.expires.tzinfo is None:
                raise Unreadable(f"key {key.name}: expires needs a time zone, as in 2027-01-01T00:00:00Z")
        return cls(content)

    def of_key(self, key: str) -> tuple[Caller, datetime | None] | None:
        """The caller of a key and the time at which the key expires; None for one that is unknown or has expired."""
        found = self._keys.get(hashlib.sha256(key.encode()).hexdigest())
        if found is None or (found.expires is not None and found.expires <= datetime.now(UTC)):
            return None
        return self._caller(f"key:{found.name}", found), found.expires

    def of_certificate(self, names: Sequence[str]) -> Caller:
        """The caller of a certificate with these names, which has no roles where no row has one of them.

        Its identity is the name by which a row knows it, or else the first.
        """
        for name in names:
            for row in self._content.certificate:
                if _fits(name, row.name):
                    return self._caller(name, row)
        return Caller(names[0])

    def of_claims(self, identity: str, roles: Sequence[str], tenant: str, attributes: Mapping[str, str]) -> Caller:
        """The caller of a token that says this of it."""
        return Caller(
            identity, frozenset(roles), tenant, self._collections((), tenant), tuple(sorted(attributes.items()))
        )

    def named(self, identity: str) -> Caller | None:
        """The caller of an identity that the file has, for explanations; expired keys count, too."""
        for key in self._content.key:
            if identity in (key.name, f"key:{key.name}"):
                return self._caller(f"key:{key.name}", key)
        known = self.of_certificate([identity])
        return known if known.roles else None

    def tags_of(self, collection: str) -> list[str]:
        """Tags of a collection."""
        return [tag for tag, patterns in self._content.tags.items() if any(_fits(collection, one) for one in patterns)]

    def _caller(self, identity: str, row: _Granted) -> Caller:
        return Caller(identity, frozenset(row.roles), row.tenant, self._collections(row.collections, row.tenant))

    def _collections(self, given: tuple[str, ...], tenant: str) -> tuple[str, ...]:
        if given or not tenant:
            return given or ("*",)
        found = self._content.tenants.get(tenant)
        return found.collections if found else ()


def owns(caller: Caller, collection: str) -> bool:
    """True if a collection is one of the caller's."""
    return any(_fits(collection, pattern) for pattern in caller.collections)


def _fits(name: str, pattern: str) -> bool:
    # Of fnmatch's signs the star alone has a meaning here.
    return fnmatchcase(name, re.sub(r"([?\[])", r"[\1]", pattern))
