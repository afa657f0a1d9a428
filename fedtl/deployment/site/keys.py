"""
The keys of an institution: its node's, which proves to the server who calls, and the one that its state is
encrypted with. Private halves are made here, stay here, and are read by their owner alone.
"""

import os
import stat
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

LONGEST = 4096  # bytes of a public key's file


def make_node_key(path: Path, name: str) -> None:
    """A P-384 key pair: ``path`` and ``path.pub``, as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_bytes(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), private=True)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_bytes(path.with_name(f"{path.name}.pub"), public + f" {name}\n".encode())


def public_key(path: Path) -> str:
    """The key in the file, without its comment. Raises ConfigError for anything but an elliptic one."""
    content = path.read_bytes()[: LONGEST + 1]
    try:
        key = load_ssh_public_key(content)
    except Exception as error:  # whatever is in the file: the library raises half a dozen kinds
        raise ConfigError(f"{path} is no public key: {error}") from error
    if len(content) > LONGEST or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path}: fedtl silo init makes P-384 keys; this is another kind")
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fits(private: Path, public: Path) -> bool:
    """Whether two files are halves of one key."""
    key = load_ssh_private_key(private.read_bytes(), None)
    ours = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return ours == public_key(public)


def secret(path: Path) -> bytes:
    """The bytes of a file that nobody else may read. Raises ConfigError."""
    check_private(path)
    return path.read_bytes()


def check_private(path: Path) -> None:
    """Raises ConfigError where others than the owner may read, write or enter."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        right = "700" if path.is_dir() else "600"
        raise ConfigError(f"{path} has mode {mode:o}; others can read it: chmod {right} {path}")


class FileEncryption:
    """Encryption of files at rest: AES-256-GCM under the 32 bytes of a key file, with a fresh nonce each time."""

    def __init__(self, key_file: Path) -> None:
        key = secret(key_file)
        if len(key) != 32:
            raise ConfigError(
                f"{key_file} has {len(key)} bytes; a key has 32: head -c 32 /dev/urandom > {key_file}"
            )
        self._cipher = AESGCM(key)

    def close(self, content: bytes, about: str) -> bytes:
        """``about`` is bound to it: a file that was put in another's place does not open."""
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, content, about.encode())

    def open(self, content: bytes, about: str) -> bytes:
        """Raises LedgerDamaged for another key and for altered bytes."""
        try:
            return self._cipher.decrypt(content[:12], content[12:], about.encode())
        except (InvalidTag, ValueError) as error:
            raise LedgerDamaged(
                f"{about}: the state does not open: another key_file, or altered bytes"
            ) from error
