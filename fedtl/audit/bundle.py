"""
One folder that an auditor hands on: results, page, the experiment, and ``bundle.json`` with a hash of each, versions,
fingerprints of the data and the last hash of each ledger; ``bundle.sig`` signs it (Ed25519).

Whoever verifies needs the folder and this file, and nothing of the run.
"""

import json
import os
import platform
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedtl.durable import write
from fedtl.errors import ConfigError, Refuted

BUNDLE, SIGNATURE = "bundle.json", "bundle.sig"


def key(path: Path) -> Ed25519PrivateKey:
    """The site's key, in PEM; made, and readable by its owner alone, where there is none. Raises ConfigError."""
    if path.is_file():
        try:
            found = s.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} is no private key in PEM without a password: {error}") from error
        if not isinstance(found, Ed25519PrivateKey):
            raise ConfigError(f"{path} is no Ed25519 key; name another file, and one is made there")
        return found
    made = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = made.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
    return made


def sign(folder: Path, names: list[str], facts: Mapping[str, Any], its: Ed25519PrivateKey) -> None:
    """Write bundle.json, about these files of the folder, and its signature."""
    content = {
        **facts,
        "python": platform.python_version(),
        "files": {name: sha256((folder / name).read_bytes()).hexdigest() for name in names},
        "key": _spelled(its.public_key()),
    }
    text = (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    write(folder / BUNDLE, lambda file: file.write_bytes(text))
    write(folder / SIGNATURE, lambda file: file.write_text(its.sign(text).hex() + "\n"))


def verify(folder: Path, wanted: str = "") -> dict[str, Any]:
    """
    What bundle.json says, once signature and files are as they were signed. ``wanted``: the public key, in hex, that
    must have signed; the bundle names its own. Raises ConfigError where there is no bundle, and Refuted.
    """
    if not (folder / BUNDLE).is_file() or not (folder / SIGNATURE).is_file():
        raise ConfigError(f"{folder} is no bundle: it has no {BUNDLE} with {SIGNATURE}")
    text = (folder / BUNDLE).read_bytes()
    try:
        content: dict[str, Any] = json.loads(text)
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content["key"]))
        signer.verify(bytes.fromhex((folder / SIGNATURE).read_text().strip()), text)
    except (ValueError, KeyError, TypeError, InvalidSignature) as error:
        raise Refuted(
            f"{folder / BUNDLE} is not what was signed; ask the site for its bundle again"
        ) from error
    if wanted and wanted.lower() != content["key"]:
        raise Refuted(f"{folder} was signed by key {content['key'][:16]}, not by {wanted[:16].lower()}")
    for name, digest in content["files"].items():
        path = folder / Path(name).name
        if not path.is_file() or sha256(path.read_bytes()).hexdigest() != digest:
            raise Refuted(f"{path} is not the file that was signed; ask the site for its bundle again")
    return content


def _spelled(public: Ed25519PublicKey) -> str:
    return public.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw).hex()
