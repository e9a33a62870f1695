"""The certificates are what Kubernetes authorizes by, so their names must be right and the chain must hold."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.cluster.components.certificates import Authority, KeyPair


def server_context(authority: Authority, pair: KeyPair) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def peer_subject(authority: Authority, server: KeyPair, client: KeyPair, *, name: str) -> object:
    """Let the client greet the server by `name`; return the subject that the server saw."""
    here, there = socket.socketpair()
    seen: list[object] = []

    def serve() -> None:
        try:
            with server_context(authority, server).wrap_socket(there, server_side=True) as connection:
                seen.append((connection.getpeercert() or {})["subject"])
                connection.sendall(b"x")
        except (ssl.SSLError, OSError):
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(client.certificate, client.key)
    try:
        with context.wrap_socket(here, server_hostname=name) as connection:
            connection.recv(1)
    finally:
        here.close()
        thread.join()
    return seen[0]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_client_is_known_by_its_user_and_groups(authority: Authority) -> None:
    pair = authority.client("kubelet", user="system:node:a", groups=["system:nodes", "others"])

    subject = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).subject

    assert [part.value for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:a"]
    groups = [part.value for part in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ["system:nodes", "others"]


def test_server_and_client_trust_each_other(authority: Authority) -> None:
    server = authority.server("api", names=["kubernetes", "10.96.0.1"])
    client = authority.client("admin", user="admin")

    for name in ("kubernetes", "10.96.0.1"):
        assert peer_subject(authority, server, client, name=name) == ((("commonName", "admin"),),)


def test_another_name_is_not_trusted(authority: Authority) -> None:
    server = authority.server("api", names=["kubernetes"])

    with pytest.raises(ssl.SSLCertVerificationError):
        peer_subject(authority, server, authority.client("admin", user="admin"), name="elsewhere")


def test_private_keys_are_for_their_owner_only(authority: Authority) -> None:
    pair = authority.client("admin", user="admin")

    assert pair.key.stat().st_mode & 0o077 == 0
