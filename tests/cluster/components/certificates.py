"""Keys and certificates of one cluster: an authority, the servers, and a client certificate for everybody who calls.

Names and groups in the certificates are what Kubernetes authorizes by (its documentation, "PKI certificates and
requirements"). They live as long as a run may take, a day, and are made anew by every run.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY: Final = datetime.timedelta(days=1)
_PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of a certificate and its private key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """The certificate authority of one cluster; its files lie in `directory`."""

    def __init__(self, directory: Path) -> None:
        """Make the authority's own key and certificate."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("fracgpu-e2e", ())
        usage = x509.KeyUsage(True, False, True, False, False, True, True, False, False)
        builder = (
            _builder(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        self.certificate = directory / "ca.crt"
        self.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))

    def client(self, file: str, *, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """Issue the certificate by which a client is `user` in `groups`."""
        return self._issue(file, _name(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def server(self, file: str, *, names: Sequence[str]) -> KeyPair:
        """Issue the certificate of a server that is reached by `names`, host names or addresses."""
        return self._issue(file, _name(names[0], ()), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def _issue(self, file: str, name: x509.Name, usage: x509.ObjectIdentifier, names: Sequence[str]) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self._name, key).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), False)
        pair = KeyPair(self._directory / f"{file}.crt", self._directory / f"{file}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        _write_private(pair.key, key)
        return pair


def make_signing_key(directory: Path) -> Path:
    """Make the key that signs service accounts' tokens; its public half is read from the same file."""
    path = directory / "service-accounts.key"
    _write_private(path, rsa.generate_private_key(public_exponent=65537, key_size=2048))
    return path


def _builder(subject: x509.Name, issuer: x509.Name, key: _PrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_private(path: Path, key: _PrivateKey | rsa.RSAPrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
