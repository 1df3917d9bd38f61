"""The quotas of callers and tenants: the defaults of the settings, and a file that refines them while it runs.

    tenants:
      acme: {calls_per_second: 500, concurrent_calls: 200}
    roles:
      writer: {bytes_in_flight_mib: 256}
    identities:
      "key:nightly-index": {calls_per_second: 20, tokens_per_second: 0}
    anonymous: {calls_per_second: 50}

A caller has the limits of its identity's row; what that leaves out, the largest of its roles' rows has, and then the
defaults. A tenant has those of its row alone. 0 means no limit. A file that is broken changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.chassis.access.identity import Caller
from services.chassis.errors import StartupError

MAX_FILE_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one caller or tenant; 0 means none."""

    calls_per_second: float = 0.0
    burst: int = 0
    """Calls that may come at once; never below the calls of a second."""
    concurrent_calls: int = 0
    bytes_in_flight: int = 0
    """Size of the requests under way."""
    tokens_per_second: float = 0.0
    """Tokens that models read."""

    def shared_by(self, replicas: int) -> Self:
        """The fair share of one replica of several."""
        if replicas == 1:
            return self
        return replace(
            self,
            calls_per_second=self.calls_per_second / replicas,
            burst=_share(self.burst, replicas),
            concurrent_calls=_share(self.concurrent_calls, replicas),
            bytes_in_flight=_share(self.bytes_in_flight, replicas),
            tokens_per_second=self.tokens_per_second / replicas,
        )


NO_QUOTA = Quota()


def _share(limit: int, replicas: int) -> int:
    return -(-limit // replicas)


class Row(BaseModel):
    """Limits that a row of the file sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls_per_second: float | None = Field(None, ge=0, le=1e6)
    burst: int | None = Field(None, ge=0, le=10**7)
    concurrent_calls: int | None = Field(None, ge=0, le=10**6)
    bytes_in_flight_mib: int | None = Field(None, ge=0, le=2**20)
    tokens_per_second: float | None = Field(None, ge=0, le=1e9)

    @cached_property
    def set_limits(self) -> dict[str, Any]:
        """Limits that it sets, as fields of `Quota`."""
        given = self.model_dump(exclude_none=True)
        if (mib := given.pop("bytes_in_flight_mib", None)) is not None:
            given["bytes_in_flight"] = mib * 2**20
        return given


class Rows(BaseModel):
    """All rows of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identities: dict[str, Row] = {}
    roles: dict[str, Row] = {}
    tenants: dict[str, Row] = {}
    anonymous: Row | None = None
    """Limits of each machine while access control is off."""

    def of_caller(self, caller: Caller, defaults: Quota) -> Quota:
        """The limits of a caller."""
        if not caller.identity:
            return replace(defaults, **self.anonymous.set_limits) if self.anonymous else NO_QUOTA
        roles = [self.roles[role].set_limits for role in caller.roles if role in self.roles]
        largest = {
            limit.name: max(values, key=lambda value: value or float("inf"))
            for limit in fields(Quota)
            if (values := [row[limit.name] for row in roles if limit.name in row])
        }
        own = self.identities.get(caller.identity)
        return replace(defaults, **{**largest, **(own.set_limits if own else {})})

    def of_tenant(self, tenant: str) -> Quota:
        """The limits of a tenant, which all of its callers share."""
        row = self.tenants.get(tenant)
        return replace(NO_QUOTA, **row.set_limits) if row else NO_QUOTA


class QuotaBook:
    """The quotas that hold now."""

    def __init__(self, defaults: Quota, file: Path | None = None) -> None:
        """Raise StartupError if there is a file that cannot be read."""
        self._defaults = defaults
        self._file = file
        self._rows = Rows()
        self._seen: tuple[int, int, int] | None = None
        self.problem = ""
        """The reason why the file's newest content does not hold; empty if it does."""
        self.look()
        if self.problem:
            raise StartupError(
                f"QUOTA_FILE: {self.problem}",
                remedy="Correct the file, as docs/limits.md shows it, or unset QUOTA_FILE.",
            )

    def of_caller(self, caller: Caller) -> Quota:
        """The limits of a caller."""
        return self._rows.of_caller(caller, self._defaults)

    def of_tenant(self, tenant: str) -> Quota:
        """The limits that all callers of a tenant share."""
        return self._rows.of_tenant(tenant)

    def look(self) -> bool:
        """Read the file again if it has changed; True if other quotas may hold now, or there is another problem."""
        if self._file is None:
            return False
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self._seen:
                return False
            rows = _parsed(self._file)
        except FileNotFoundError:
            seen, problem = None, f"{self._file} does not exist"
        except (OSError, ValueError) as error:
            problem = f"{self._file}: {error}"
        else:
            self._rows, problem = rows, ""
        changed = not problem or problem != self.problem
        self._seen, self.problem = seen, problem
        return changed


def _parsed(file: Path) -> Rows:
    """Rows of a file. Raise ValueError with a readable problem."""
    with file.open("rb") as opened:
        raw = opened.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"is longer than {MAX_FILE_BYTES} bytes")
    try:
        return Rows.model_validate(yaml.safe_load(raw) or {})
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(problems)) from None
