"""
One folder that an auditor hands on: results, page, the experiment, and ``bundle.json`` with a hash of each, versions and the
last hash of each ledger; ``bundle.sig`` signs it (Ed25519).

Whoever verifies needs the folder, this file and the auditor's public key, and nothing of the run. No fingerprint of rows
stands in it: in a simulation its key follows from the experiment's seed, so that guesses of the rows could be tried out.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedtl._util.files import write_file
from fedtl.errors import ConfigError, Refuted

BUNDLE, SIGNATURE = "bundle.json", "bundle.sig"
MOST = 8  # faults that a message names
NOTICE = (
    "This audit was made from private rows. It is outside of the privacy claim and is not a release: whoever may not see the "
    "rows should not get it."
)


@dataclass(frozen=True)
class Verified:
    """
    A bundle that is as it was signed. ``content``: what bundle.json says; ``key``: the public key that signed, in hex;
    ``known``: the reader named this key, so that the signature says who signed.
    """

    content: Mapping[str, Any]
    key: str
    known: bool


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
        "notice": NOTICE,
        **facts,
        "python": platform.python_version(),
        "files": {name: sha256((folder / name).read_bytes()).hexdigest() for name in names},
        "key": public(its),
    }
    text = (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    write_file(folder / BUNDLE, lambda file: file.write_bytes(text))
    write_file(folder / SIGNATURE, lambda file: file.write_text(its.sign(text).hex() + "\n"))


def verify(folder: Path, wanted: str = "") -> Verified:
    """
    Check the signature, that every signed file is as it was signed, and that nothing else is in the folder. ``wanted``: the
    public key, in hex, that must have signed; without it only some key's signature is checked, the one that the bundle
    names itself. Raises ConfigError where there is no bundle or ``wanted`` is no key, and Refuted.
    """
    expected = _asked(wanted)
    if not (folder / BUNDLE).is_file() or not (folder / SIGNATURE).is_file():
        raise ConfigError(f"{folder} is no bundle: it has no {BUNDLE} with {SIGNATURE}")
    text = _content(folder / BUNDLE)
    try:
        content: dict[str, Any] = json.loads(text)
        signer = content["key"]
        named = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        named.verify(bytes.fromhex(_content(folder / SIGNATURE).decode().strip()), text)
        files = dict(content["files"])
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as error:
        raise Refuted(
            f"{folder / BUNDLE} is not what was signed; ask the auditor for the bundle again"
        ) from error
    if expected and expected != signer:
        raise Refuted(
            f"{folder} was signed by the key {fingerprint(signer)}, not by yours, {fingerprint(expected)}"
        )
    signed = {*files, BUNDLE, SIGNATURE}
    odd = [fault for name, digest in files.items() if (fault := _fault(folder, name, digest))]
    odd += [f"{name} is not part of the bundle, for nobody signed it" for name in surplus(folder, signed)]
    if odd:
        more = f"; and {len(odd) - MOST} more" if len(odd) > MOST else ""
        raise Refuted(
            f"{folder}: {'; '.join(odd[:MOST])}{more}; take out what is not part of it, or ask the auditor for the bundle again"
        )
    return Verified(content, signer, bool(expected))


def _fault(folder: Path, name: str, digest: str) -> str:
    """What is wrong with a file that was signed, "" for nothing."""
    path = folder / name
    if Path(name).name != name:
        return f"{name} lies outside of the bundle"
    if path.is_symlink():
        return f"{name} is a link, and no file of the bundle"
    if not path.is_file():
        return f"{name} is missing, and was signed"
    return (
        "" if sha256(path.read_bytes()).hexdigest() == digest else f"{name} was altered after it was signed"
    )


def surplus(folder: Path, names: set[str]) -> list[str]:
    """What a folder holds, at any depth, beside the files of these names; links are named, not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        links = [name for name in folders if (folder / here / name).is_symlink()]
        empty = [name for name in folders if not any((folder / here / name).iterdir())]
        found += [str(here / name) for name in {*files, *links, *empty}]
    return sorted(set(found) - names)


def public(its: Ed25519PrivateKey) -> str:
    """The public key that goes with it, in hex: what a reader of the bundle needs."""
    return its.public_key().public_bytes(s.Encoding.Raw, s.PublicFormat.Raw).hex()


def signed_by(path: Path) -> str:
    """What an auditor has to tell the readers of a bundle that this private key signed."""
    spelled = public(key(path))
    return f"signed with {path}; tell your readers its public key, {spelled} ({fingerprint(spelled)}), by another way"


def fingerprint(key: str) -> str:
    """Of a public key in hex: short enough to be compared by telephone."""
    digest = sha256(bytes.fromhex(key)).hexdigest()[:24]
    return " ".join(digest[at : at + 4] for at in range(0, 24, 4))


def _asked(wanted: str) -> str:
    """A public key as somebody typed it. Raises ConfigError."""
    typed = wanted.strip().lower()
    if typed and (len(typed) != 64 or set(typed) - set("0123456789abcdef")):
        raise ConfigError(
            f"--key {wanted[:70]!r} is no Ed25519 public key: with verify it is 64 hexadecimal digits, which fedtl audit "
            "prints where it signs"
        )
    return typed


def _content(path: Path) -> bytes:
    """Of a plain file: what a link points to may change after it was looked at. Raises Refuted."""
    if path.is_symlink():
        raise Refuted(f"{path} is a link, and no file of the bundle; ask the auditor for the bundle again")
    return path.read_bytes()
