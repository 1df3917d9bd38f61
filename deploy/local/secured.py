"""Authority, certificates and keys of callers for the profile `secured`, made at its first start."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local.paths import BUILD
from services.chassis.access.callers import KEY_PREFIX

PROFILE = "secured"
FOLDER = BUILD / PROFILE
ROLES: Mapping[str, tuple[str, ...]] = {
    "me": ("reader", "writer", "operator"),
    "reader": ("reader",),
    "writer": ("writer",),
    "operator": ("operator",),
    "auditor": ("auditor",),
}
"""The callers with keys, and their roles."""

_AUTHORITY_DAYS, _CERTIFICATE_DAYS = 3650, 365


@dataclass(frozen=True)
class Secured:
    """A folder with all that callers and stages show each other."""

    folder: Path

    @classmethod
    def prepared(cls, stages: Iterable[str], folder: Path = FOLDER) -> Secured:
        """Make what is missing, and new certificates of the stages."""
        made = cls(folder)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not made.authority.exists():
            made._make_authority()
        for stage in stages:
            made.issue(stage, stage, "localhost")
        if not (folder / "callers.toml").exists():
            rows = [made.row(name, *roles) for name, roles in ROLES.items()]
            made.write("callers.toml", made.certificates(stages) + "".join(rows))
        exports = "".join(f"export {name}={value}\n" for name, value in made.client_environment().items())
        made.write("env", exports)
        return made

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    def environment(self, stage: str) -> dict[str, str]:
        """Settings of a stage."""
        return {
            "AUTH": "on",
            "AUTH_CALLERS": str(self.folder / "callers.toml"),
            "GRPC_TLS_AUTHORITY": str(self.authority),
            "GRPC_TLS_CERTIFICATE": str(self.folder / f"{stage}.crt"),
            "GRPC_TLS_KEY": str(self.folder / f"{stage}.key"),
        }

    def client_environment(self, name: str = "me") -> dict[str, str]:
        """Variables with which the command calls as one of the callers."""
        return {"SLUICE_TLS_AUTHORITY": str(self.authority), "SLUICE_TOKEN_FILE": str(self.folder / f"{name}.token")}

    def token(self, name: str) -> str:
        """The key of a caller."""
        return (self.folder / f"{name}.token").read_text(encoding="utf-8").strip()

    def credentials(self, name: str = "") -> grpc.ChannelCredentials:
        """Credentials of a channel, with the certificate of a stage or without."""
        key, certificate = ((self.folder / f"{name}.{end}").read_bytes() if name else None for end in ("key", "crt"))
        return grpc.ssl_channel_credentials(self.authority.read_bytes(), key, certificate)

    def write(self, name: str, text: str) -> None:
        """Replace a file whole, for its owner alone."""
        new = self.folder / f".{name}.new"
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")
        new.replace(self.folder / name)

    def issue(self, name: str, *hosts: str) -> None:
        """Make a certificate with its key, for host names and this machine's own address."""
        read = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        assert isinstance(read, ec.EllipticCurvePrivateKey)  # noqa: S101  as it was written
        authority = x509.load_pem_x509_certificate(self.authority.read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.DNSName, hosts), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = _builder(name, authority.subject, key, _CERTIFICATE_DAYS).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        self.write(f"{name}.key", _private(key))
        self.write(f"{name}.crt", _public(built.sign(read, hashes.SHA256())))

    def row(self, name: str, *roles: str, **more: str) -> str:
        """Make a key, keep it in a file, and return its row in the file of callers."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        self.write(f"{name}.token", key + "\n")
        fields = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "roles": list(roles), **more}
        return "[[key]]\n" + "".join(f"{field} = {json.dumps(value)}\n" for field, value in fields.items()) + "\n"

    def certificates(self, stages: Iterable[str]) -> str:
        """The rows of the stages in the file of callers."""
        return "".join(
            f'[[certificate]]\nname = "dns:{stage}"\nroles = ["{"gateway" if stage == "gateway" else "stage"}"]\n\n'
            for stage in stages
        )

    def _make_authority(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sluice on this machine")])
        built = _builder("sluice on this machine", name, key, _AUTHORITY_DAYS).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.write("ca.key", _private(key))
        self.write("ca.crt", _public(built.sign(key, hashes.SHA256())))


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
    )


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
