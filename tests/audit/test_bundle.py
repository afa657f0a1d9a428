"""A signed bundle of an audit: what is missing, altered, surplus or a link, whose key it was, and how the command says so."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedtl.audit import bundle
from fedtl.errors import ConfigError, Refuted

SIGNED = ["audit.json", "audit.html", "experiment.toml"]


@pytest.fixture
def made(tmp_path):
    """A bundle, and the key that signed it."""
    folder, key = tmp_path / "bundle", Ed25519PrivateKey.generate()
    folder.mkdir()
    for name in SIGNED:
        (folder / name).write_text(f"this is {name}\n")
    bundle.sign(folder, SIGNED, {"violations": []}, key)
    return folder, key


def verified(*words):
    command = [sys.executable, "-m", "fedtl", "audit", "verify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_bundle_verifies_until_anything_in_it_changes(made, tmp_path):
    folder, key = made
    found = bundle.verify(folder)
    assert found.key == bundle.public(key)
    assert not found.known
    assert bundle.verify(folder, f" {bundle.public(key).upper()} ").known
    assert "made from private rows" in found.content["notice"]
    for name in (*SIGNED, "bundle.json", "bundle.sig"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(folder, copy)
        text = bytearray((copy / name).read_bytes())
        text[len(text) // 2] ^= 1
        (copy / name).write_bytes(text)
        with pytest.raises(Refuted):
            bundle.verify(copy)
    with pytest.raises(ConfigError, match="no bundle"):
        bundle.verify(tmp_path)


@pytest.mark.parametrize("name", SIGNED)
def test_a_file_that_is_missing_is_named(made, name):
    (made[0] / name).unlink()
    with pytest.raises(Refuted, match=f"{name} is missing"):
        bundle.verify(made[0])


@pytest.mark.parametrize("name", ["audit-final.html", "data/rows.csv", ".audit.html.swp", "sub/audit.json"])
def test_a_file_that_nobody_signed_is_named(made, name):
    path = made[0] / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("trust me")
    with pytest.raises(Refuted, match="not part of the bundle, for nobody signed") as error:
        bundle.verify(made[0])
    assert name in str(error.value)


def test_folders_and_links_that_nobody_signed_are_named(made, tmp_path):
    (made[0] / "empty").mkdir()
    (made[0] / "elsewhere").symlink_to(tmp_path)
    (made[0] / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(Refuted, match=r"elsewhere is not part.*empty is not part.*gone is not part"):
        bundle.verify(made[0])


@pytest.mark.parametrize("name", [*SIGNED, "bundle.json", "bundle.sig"])
def test_a_link_is_no_file_of_the_bundle(made, name, tmp_path):
    """Of the same content today; whoever owns what it points to changes it tomorrow."""
    shutil.move(made[0] / name, tmp_path / name)
    (made[0] / name).symlink_to(tmp_path / name)
    with pytest.raises(Refuted, match=f"{name} is a link"):
        bundle.verify(made[0])


def test_a_pipe_is_no_file_of_the_bundle(made):
    (made[0] / "audit.json").unlink()
    os.mkfifo(made[0] / "audit.json")
    with pytest.raises(Refuted, match=r"audit\.json is missing"):
        bundle.verify(made[0])


def test_a_list_that_reaches_out_of_the_folder_is_refused(made, tmp_path):
    folder, key = made
    shutil.copy(folder / "audit.json", tmp_path / "audit.json")
    bundle.sign(folder, ["../audit.json", *SIGNED], {"violations": []}, key)
    with pytest.raises(Refuted, match="outside of the bundle"):
        bundle.verify(folder)


def test_every_fault_is_named_at_once(made):
    folder, _ = made
    (folder / "audit.json").unlink()
    (folder / "audit.html").write_text("everything is fine")
    (folder / "more.html").write_text("really")
    with pytest.raises(
        Refuted, match=r"audit\.html was altered.*audit\.json is missing.*more\.html is not part"
    ):
        bundle.verify(folder)


def test_a_bundle_that_somebody_else_signed_is_seen_with_the_auditors_key_alone(made):
    """A page that was altered and signed with another key: without the auditor's key it looks whole, and that is said."""
    folder, key = made
    (folder / "audit.html").write_text("everything is fine")
    bundle.sign(folder, SIGNED, {"violations": []}, Ed25519PrivateKey.generate())
    done = verified(folder)
    assert done.returncode == 0, done.stderr
    assert "NOT verified" in done.stdout
    assert "--key" in done.stdout
    assert bundle.fingerprint(json.loads((folder / "bundle.json").read_text())["key"]) in done.stdout
    done = verified(folder, "--key", bundle.public(key))
    assert done.returncode == 5
    assert bundle.fingerprint(bundle.public(key)) in done.stderr


def test_a_key_in_the_list_does_not_stand_for_another_signature(made):
    """The key is swapped in bundle.json, and the signature kept."""
    folder, _ = made
    content = json.loads((folder / "bundle.json").read_text())
    content["key"] = bundle.public(Ed25519PrivateKey.generate())
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(Refuted, match="not what was signed"):
        bundle.verify(folder)


@pytest.mark.parametrize("words", ["abc", "00" * 31, "xy" * 32, "site.pem"])
def test_what_is_no_public_key_is_a_mistake_of_the_reader(made, words):
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        bundle.verify(made[0], words)


def test_the_command_says_what_the_bundle_is_and_names_what_it_is_not(made):
    folder, key = made
    done = verified(folder, "--key", bundle.public(key))
    assert done.returncode == 0, done.stderr
    assert "NOT verified" not in done.stdout
    assert "made from private rows" in done.stdout
    assert "not a release" in done.stdout
    (folder / "notes.txt").write_text("looks good")
    done = verified(folder, "--key", bundle.public(key))
    assert done.returncode == 5
    assert "notes.txt" in done.stderr.splitlines()[-1]
    (folder / "notes.txt").unlink()
    done = verified(folder, "--json")
    assert json.loads(done.stdout)["signer_known"] is False


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "keys" / "site.pem"
    made = bundle.key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert bundle.key(path).private_bytes_raw() == made.private_bytes_raw()
    assert bundle.public(made) in bundle.signed_by(path)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="PEM"):
        bundle.key(path)
