"""Access control for tests: an authority, a file of callers with a key a role, and an issuer of tokens."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from services.chassis.settings import StageSettings

ISSUER, AUDIENCE = "https://issuer.example", "sluice"


def key_of(name: str) -> str:
    """The key of a caller of these tests."""
    return f"sluice_{name:x<43}"


def row(name: str, *roles: str, **more: str) -> str:
    """The row of a key."""
    extra = "".join(f"{field} = {json.dumps(value)}\n" for field, value in more.items())
    digest = hashlib.sha256(key_of(name).encode()).hexdigest()
    return f'[[key]]\nname = "{name}"\nsha256 = "{digest}"\nroles = {json.dumps(roles)}\n{extra}\n'


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata with a token."""
    return (("authorization", f"Bearer {token}"),)


class Doors:
    """A folder with the files of access control."""

    def __init__(self, folder: Path, callers: str, policy: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(folder / "ca.crt")
        self.issue("server", "127.0.0.1")
        self.write("callers.toml", callers)
        if policy:
            self.write("policy.cedar", policy)
        self.signer = ec.generate_private_key(ec.SECP256R1())
        self.publish("one", self.signer)

    def write(self, name: str, text: str) -> None:
        """Replace a file as careful programs do."""
        (self.folder / "new").write_text(text)
        (self.folder / "new").rename(self.folder / name)

    def publish(self, kid: str, signer: ec.EllipticCurvePrivateKey) -> None:
        """Write the key set of the issuer."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(signer.public_key()))
        self.write("jwks.json", json.dumps({"keys": [public | {"kid": kid, "use": "sig", "alg": "ES256"}]}))

    def issue(self, name: str, *hosts: str) -> None:
        """Make a certificate and its key."""
        leaf = self._authority.issue_cert(*hosts)
        leaf.private_key_pem.write_to_path(self.folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(self.folder / f"{name}.crt")

    def token(self, kid: str = "one", **claims: Any) -> str:
        """Sign a token."""
        content = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 60} | claims
        return jwt.encode({k: v for k, v in content.items() if v is not None}, self.signer, "ES256", {"kid": kid})

    def credentials(self, name: str = "") -> grpc.ChannelCredentials:
        """Credentials of a client, with a certificate or without."""
        read = {end: (self.folder / f"{name}.{end}").read_bytes() for end in ("key", "crt") if name}
        return grpc.ssl_channel_credentials((self.folder / "ca.crt").read_bytes(), read.get("key"), read.get("crt"))

    def variables(self, *, tls: bool = False) -> Mapping[str, Any]:
        """Settings of a stage, by name."""
        given: dict[str, Any] = {
            "auth_callers": self.folder / "callers.toml",
            "auth_jwks": str(self.folder / "jwks.json"),
            "auth_issuer": ISSUER,
            "auth_audience": AUDIENCE,
        }
        if (self.folder / "policy.cedar").exists():
            given["auth_policy"] = self.folder / "policy.cedar"
        if tls:
            given |= {
                "grpc_tls_certificate": self.folder / "server.crt",
                "grpc_tls_key": self.folder / "server.key",
                "grpc_tls_authority": self.folder / "ca.crt",
            }
        return given

    def settings(self, *, tls: bool = False, **more: Any) -> StageSettings:
        """Settings of a stage of the chassis' tests."""
        return StageSettings(grpc_port=0, metrics_port=0, drain_seconds=0, **self.variables(tls=tls), **more)
