"""
The keys of a site: the node key, by which the server recognises it, and the key that its state is encrypted with. They are
created at the site, never leave it, and only their owner can read the private files.
"""

import os
import stat
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from fedtl._util.files import write_bytes
from fedtl.errors import ConfigError, LedgerDamaged

MAX_PUBLIC_KEY_BYTES = 4096


def create_node_key(path: Path, name: str) -> None:
    """Write a P-384 key pair to ``path`` and ``path.pub``, in OpenSSH's format. ``name``: the comment of the public key."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), private=True)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_bytes(path.with_name(f"{path.name}.pub"), public + f" {name}\n".encode())


def replace_node_key(path: Path, name: str) -> str:
    """
    Create a new key pair at ``path``; the former one is kept as ``<path>.old``. Return the new public key. Raises ConfigError where an
    old one is there still.
    """
    pairs = [
        (file, file.with_name(f"{file.name}.old")) for file in (path, path.with_name(f"{path.name}.pub"))
    ]
    for _, old in pairs:
        if old.exists():
            raise ConfigError(f"{old} is left from an earlier rotation; remove it")
    for file, old in pairs:
        os.link(file, old)  # so that a crash leaves a whole pair
    create_node_key(path, name)
    return read_public_key(path.with_name(f"{path.name}.pub"))


def read_public_key(path: Path) -> str:
    """Return the key in the file without its comment. Raises ConfigError for anything but an elliptic-curve key."""
    content = path.read_bytes()[: MAX_PUBLIC_KEY_BYTES + 1]
    try:
        key = load_ssh_public_key(content)
    except Exception as error:  # the library raises several types for a malformed file
        raise ConfigError(
            f"{path} is not a public key: {error}; use the node.key.pub that fedtl silo init creates"
        ) from error
    if len(content) > MAX_PUBLIC_KEY_BYTES or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(
            f"{path} is a key of another type; use the node.key.pub that fedtl silo init creates (P-384)"
        )
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def public_key_pem(key: str) -> bytes:
    """Return an OpenSSH public key in PEM, as Flower stores it. Raises ConfigError for anything else."""
    try:
        public = load_ssh_public_key(key.encode())
    except ValueError as error:
        raise ConfigError(f"{key[:40]!r} is not a public key: {error}; admit the site again") from error
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: str) -> str:
    """Return the SHA-256 fingerprint of an OpenSSH public key as ``ssh-keygen -l`` prints it, to be compared by telephone."""
    digest = sha256(b64decode(key.split()[1])).digest()
    return f"SHA256:{b64encode(digest).decode().rstrip('=')}"


def keys_match(private: Path, public: Path) -> bool:
    """Whether the two files hold one key pair."""
    key = load_ssh_private_key(private.read_bytes(), None)
    derived = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return derived == read_public_key(public)


def read_secret(path: Path) -> bytes:
    """Return the bytes of a secret file. Raises ConfigError where others could read it."""
    check_private(path)
    return path.read_bytes()


def check_private(path: Path) -> None:
    """Check a path's mode. Raises ConfigError where other users than the owner may read, write or enter it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        allowed = "700" if path.is_dir() else "600"
        raise ConfigError(f"{path} has mode {mode:o}, so other users could read it: chmod {allowed} {path}")


class FileEncryption:
    """Encrypts files with AES-256-GCM under the 32 bytes of a key file, with a new nonce each time."""

    def __init__(self, key_file: Path) -> None:
        key = read_secret(key_file)
        if len(key) != 32:
            raise ConfigError(
                f"key_file {key_file} has {len(key)} bytes and needs 32: head -c 32 /dev/urandom > {key_file}"
            )
        self._cipher = AESGCM(key)

    def encrypt(self, content: bytes, context: str) -> bytes:
        """``context`` is authenticated too: a file that replaces another one cannot be decrypted."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, content, context.encode())

    def decrypt(self, content: bytes, context: str) -> bytes:
        """Return the plain content. Raises LedgerDamaged for another key, another context and altered bytes."""
        try:
            return self._cipher.decrypt(content[:12], content[12:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise LedgerDamaged(
                f"{context}: the stored state cannot be decrypted: key_file is another key, or the file was altered"
            ) from error
