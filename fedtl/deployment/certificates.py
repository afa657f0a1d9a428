"""
The coordinator's certificate authority, and the certificate of its gate. The authority's key is needed only to renew the
certificate, so it can be kept on another machine.
"""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedtl._util.files import make_folder, write_bytes
from fedtl.errors import ConfigError

AUTHORITY_DAYS, SERVER_DAYS = 3650, 365
NEXT = "next"  # the folder of an authority that is not used yet
TLS_FILES = ("ca.key", "ca.crt", "server.key", "server.pem")
MIN_DAYS = 30.0  # before its end, a certificate must be renewed


def create_authority(folder: Path, host: str) -> None:
    """Write ``ca.crt`` and ``ca.key`` into the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedtl CA of {host}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _certificate_builder(name, name, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    _write_key(folder / "ca.key", key)
    write_bytes(folder / "ca.crt", certificate.public_bytes(Encoding.PEM))


def create_server_certificate(folder: Path, host: str) -> None:
    """Write a new ``server.pem`` and ``server.key``, signed by the authority in the folder. Raises ConfigError."""
    try:
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / 'ca.key'} is needed to sign the new certificate, and cannot be read; copy it to this path"
        ) from error
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names = [
        _general_name(host),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        _certificate_builder(name, authority.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, SHA256())
    )
    _write_key(folder / "server.key", key)
    write_bytes(folder / "server.pem", certificate.public_bytes(Encoding.PEM))


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file. Raises ConfigError where it has none."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} does not exist; a site gets ca.crt from the coordinator, whose file is tls/ca.crt"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a PEM certificate: {error}; replace the file") from error


def days_left(path: Path) -> float:
    """Return the days until a certificate expires; of several, the last one. Raises ConfigError where the file is none."""
    last = max(certificate.not_valid_after_utc for certificate in read_certificates(path))
    return (last - datetime.now(UTC)) / timedelta(days=1)


def certificate_fingerprint(path: Path) -> str:
    """Return the SHA-256 of each certificate as ``openssl x509 -fingerprint -sha256`` prints it. Raises ConfigError."""
    found = [certificate.fingerprint(SHA256()).hex(":").upper() for certificate in read_certificates(path)]
    return ", ".join(found)


def renew_authority(folder: Path, host: str) -> Path:
    """
    Create the next authority and a certificate of it in ``folder/next``, which nothing uses yet, and return its ca.crt. Raises
    ConfigError where there is one already.
    """
    following = folder / NEXT
    if following.exists():
        raise ConfigError(f"{following} exists; switch to it, or remove it")
    make_folder(following, private=True)
    create_authority(following, host)
    create_server_certificate(following, host)
    return following / "ca.crt"


def switch_authority(folder: Path) -> None:
    """Use the authority in ``folder/next`` from the next start on. Raises ConfigError where there is none."""
    following = folder / NEXT
    names = [name for name in TLS_FILES if (following / name).is_file()]
    if not {"ca.crt", "server.pem", "server.key"} <= set(names):
        raise ConfigError(f"{following} has no authority; create one: fedtl server renew DIR --authority")
    if "ca.key" not in names:
        (folder / "ca.key").unlink(missing_ok=True)  # the old one signs nothing that sites will trust
    for name in names:
        os.replace(following / name, folder / name)
    following.rmdir()


def trust(path: Path, new: Path, only: bool) -> None:
    """Add the certificates in ``new`` to those in ``path``; ``only``: in place of them. Raises ConfigError where ``new`` has none."""
    former = read_certificates(path) if path.exists() and not only else []
    certificates = dict.fromkeys([*read_certificates(new), *former])
    write_bytes(path, b"".join(one.public_bytes(Encoding.PEM) for one in certificates))


def validity(name: str, days: float, remedy: str) -> str:
    """Return how long a certificate is valid, and from ``MIN_DAYS`` before its end what to do."""
    if days < 0:
        return f"{name} expired {-days:.0f} days ago; {remedy}"
    return f"{name} is valid for {days:.0f} days" + (f"; {remedy}" if days < MIN_DAYS else "")


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # the clocks of sites differ
        .not_valid_after(now + timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_bytes(path, content, private=True)
