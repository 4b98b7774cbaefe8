"""Certificates of an authority of the test's own, for a server and for a client."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    import socket
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Where they are."""

    folder: Path

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Options of a redis-server that wants a certificate of its clients."""
        return [
            ("--tls-cert-file", f"{self.folder}/server.pem"),
            ("--tls-key-file", f"{self.folder}/server.key"),
            ("--tls-ca-cert-file", f"{self.folder}/authority.pem"),
            ("--tls-auth-clients", "yes"),
        ]

    def server_options(self, holder: socket.socket) -> list[str]:
        """The same on a command line, for the port that *holder* keeps."""
        words = [word for pair in self.pairs for word in pair]
        return ["--tls-port", str(holder.getsockname()[1]), *words]

    @property
    def trust_query(self) -> str:
        """Of a URL: whom the client trusts."""
        return f"ssl_ca_certs={self.folder}/authority.pem"

    @property
    def client_query(self) -> str:
        """Of a URL: that, and who the client is."""
        own = f"ssl_certfile={self.folder}/client.pem&ssl_keyfile={self.folder}/client.key"
        return f"{self.trust_query}&{own}"


def make_certificates(folder: Path) -> Certificates:
    """Write ``authority``, ``server`` and ``client``, each as ``.pem`` and ``.key``."""
    authority = ec.generate_private_key(ec.SECP256R1())
    name = _name("authority")
    _write(folder, "authority", _certificate(name, authority, name, authority, ca=True), authority)
    for each in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder, each, _certificate(_name(each), key, name, authority, ca=False), key)
    return Certificates(folder)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _write(
    folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    pem = serialization.Encoding.PEM
    (folder / f"{stem}.pem").write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (folder / f"{stem}.key").write_bytes(private)
