"""
The folder that an auditor hands on: results, page, the experiment, ``bundle.json`` with a hash of each file, versions and
the last hash of each ledger, and ``bundle.sig``, an Ed25519 signature of bundle.json.

To verify it, a reader needs the folder, fedtl and the auditor's public key, and nothing of the run. It holds no
fingerprint of rows: in a simulation the key of a fingerprint follows from the experiment's seed, so that a reader
who guesses rows could test the guesses.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import fedtl
from fedtl._util.files import write_bytes, write_file
from fedtl.errors import ConfigError, Refuted

SigningKey = Ed25519PrivateKey
BUNDLE, SIGNATURE = "bundle.json", "bundle.sig"
SHOWN_FAULTS = 8  # the most faults that one message names
NOTICE = (
    "This audit was made from private rows. The privacy guarantee does not cover it, and it is not a release: do not give it "
    "to anyone who may not see the rows."
)


@dataclass(frozen=True)
class BundleContent:
    """
    What bundle.json holds: the run's name, its violations, the last hash of each silo's ledger, the sha256 of each signed
    file, versions, and the public ``key`` in hex.
    """

    run: str
    ledgers: Mapping[str, str]
    violations: Sequence[str]
    files: Mapping[str, str]
    key: str
    notice: str = NOTICE
    fedtl: str = field(default_factory=lambda: fedtl.__version__)
    torch: str = str(torch.__version__)
    python: str = field(default_factory=platform.python_version)


@dataclass(frozen=True)
class Verified:
    """
    A bundle that was not changed since it was signed. ``known_signer``: the reader named the key, so the signer is known.
    """

    content: BundleContent
    known_signer: bool


def load_signing_key(path: Path) -> SigningKey:
    """The private key in a PEM file; if there is no file, a new key readable by its owner only. Raises ConfigError."""
    if path.is_file():
        try:
            key = s.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path} is not a private key in PEM format without a password ({error}); "
                "name a file that does not exist, to create a key there"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"{path} is not an Ed25519 key; name a file that does not exist, to create a key there"
            )
        return key
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
    return key


def sign_bundle(
    folder: Path,
    names: Sequence[str],
    run: str,
    ledgers: Mapping[str, str],
    violations: Sequence[str],
    key: SigningKey,
) -> None:
    """Write bundle.json, about the named files of the folder, and its signature."""
    files = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
    content = BundleContent(run, ledgers, violations, files, public_key(key))
    text = (json.dumps(asdict(content), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    write_bytes(folder / BUNDLE, text)
    write_file(folder / SIGNATURE, lambda file: file.write_text(key.sign(text).hex() + "\n"))


def verify_bundle(folder: Path, wanted: str = "") -> Verified:
    """
    Check that a bundle is as it was signed, and that no file was added. ``wanted``: the auditor's public key in hex;
    without it the signature is checked with the key that the bundle itself names, so the signer stays unknown.

    Raises ConfigError if there is no bundle or ``wanted`` is not a key, and Refuted if anything differs.
    """
    expected = _parse_public_key(wanted)
    if not (folder / BUNDLE).is_file() or not (folder / SIGNATURE).is_file():
        raise ConfigError(
            f"{folder} is not a bundle: {BUNDLE} or {SIGNATURE} is missing; name the folder of an audit"
        )
    text = _read_plain_file(folder / BUNDLE)
    signature = _read_plain_file(folder / SIGNATURE)
    try:
        content = _read_content(text)
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(content.key))
        signer.verify(bytes.fromhex(signature.decode().strip()), text)
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as error:
        raise Refuted(
            f"{folder / BUNDLE} does not match its signature; ask the auditor for the bundle again"
        ) from error
    if expected and expected != content.key:
        raise Refuted(
            f"{folder} was signed with the key {fingerprint(content.key)}, not with that of --key, {fingerprint(expected)}; "
            "ask the auditor which key is right"
        )
    faults = [fault for name, digest in content.files.items() if (fault := _fault(folder, name, digest))]
    unexpected = unexpected_files(folder, {*content.files, BUNDLE, SIGNATURE})
    faults += [f"{name} is not part of the bundle: it was not signed" for name in unexpected]
    if faults:
        more = f"; and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise Refuted(
            f"{folder}: {'; '.join(faults[:SHOWN_FAULTS])}{more}; remove files that are not part of it, or ask the auditor "
            "for the bundle again"
        )
    return Verified(content, bool(expected))


def _read_content(text: bytes) -> BundleContent:
    """The content of bundle.json. Raises KeyError, TypeError or ValueError if anything is missing or has another form."""
    values = json.loads(text)
    content = BundleContent(**{name: values[name] for name in BundleContent.__dataclass_fields__})
    files, violations = dict(content.files), list(content.violations)
    return replace(content, files=files, violations=violations, key=str(content.key))


def _fault(folder: Path, name: str, digest: str) -> str:
    """What is wrong with a signed file; "" if nothing is."""
    path = folder / name
    if Path(name).name != name:
        return f"{name} is outside of the bundle"
    if path.is_symlink():
        return f"{name} is a link, not a file of the bundle"
    if not path.is_file():
        return f"{name} is missing"
    return "" if sha256(path.read_bytes()).hexdigest() == digest else f"{name} was altered after signing"


def unexpected_files(folder: Path, names: set[str]) -> list[str]:
    """Paths in a folder, at any depth, other than these names; links are listed, not followed."""
    paths: list[str] = []
    for parent, folders, files in os.walk(folder):
        here = Path(parent).relative_to(folder)
        links = [name for name in folders if (folder / here / name).is_symlink()]
        empty = [name for name in folders if not any((folder / here / name).iterdir())]
        paths += [str(here / name) for name in {*files, *links, *empty}]
    return sorted(set(paths) - names)


def public_key(key: SigningKey) -> str:
    """The public key in hex, which a reader of the bundle needs."""
    return key.public_key().public_bytes(s.Encoding.Raw, s.PublicFormat.Raw).hex()


def describe_signer(path: Path, folder: Path) -> str:
    """What an auditor must tell the readers of the bundle ``folder``, which was signed with this private key."""
    key = public_key(load_signing_key(path))
    return (
        f"the bundle to give away is {folder}, signed with {path}. Its readers check it with: fedtl audit verify {folder.name} --key {key}. "
        f"Send them this public key by another channel than the bundle, or read its fingerprint out: {fingerprint(key)}"
    )


def fingerprint(key: str) -> str:
    """The fingerprint of a public key in hex, short enough to compare by telephone."""
    digest = sha256(bytes.fromhex(key)).hexdigest()[:24]
    return " ".join(digest[at : at + 4] for at in range(0, 24, 4))


def _parse_public_key(typed: str) -> str:
    """The typed key in lower case, or "". Raises ConfigError if it is neither empty nor a public key in hex."""
    key = typed.strip().lower()
    if key and (len(key) != 64 or set(key) - set("0123456789abcdef")):
        raise ConfigError(
            f"--key {typed[:70]!r} is not an Ed25519 public key: verify needs the 64 hexadecimal digits that fedtl audit "
            "prints when it signs"
        )
    return key


def _read_plain_file(path: Path) -> bytes:
    """
    The bytes of a file. Raises Refuted for a link, because the file that it points to may change after it was checked.
    """
    if path.is_symlink():
        raise Refuted(f"{path} is a link, not a file of the bundle; ask the auditor for the bundle again")
    return path.read_bytes()
