"""A signed bundle: files that are missing, altered, added or links, whose key signed, and what the command prints."""

import json
import os
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedtl.audit import bundle
from fedtl.errors import ConfigError, Refuted
from tests.commands import fedtl

SIGNED = ["audit.json", "audit.html", "experiment.toml"]


@pytest.fixture
def made(tmp_path):
    """A bundle, and the key that signed it."""
    folder, key = tmp_path / "bundle", Ed25519PrivateKey.generate()
    folder.mkdir()
    for name in SIGNED:
        (folder / name).write_text(f"this is {name}\n")
    sign(folder, key)
    return folder, key


def sign(folder, key, names=SIGNED):
    bundle.sign_bundle(folder, names, "run", {}, [], key)


def verified(*words):
    return fedtl("audit", "verify", *words)


def test_a_bundle_verifies_until_anything_in_it_changes(made, tmp_path):
    folder, key = made
    found = bundle.verify_bundle(folder)
    assert found.content.key == bundle.public_key(key)
    assert not found.known_signer
    assert bundle.verify_bundle(folder, f" {bundle.public_key(key).upper()} ").known_signer
    assert "private rows" in found.content.notice
    for name in (*SIGNED, "bundle.json", "bundle.sig"):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(folder, copy)
        text = bytearray((copy / name).read_bytes())
        text[len(text) // 2] ^= 1
        (copy / name).write_bytes(text)
        with pytest.raises(Refuted):
            bundle.verify_bundle(copy)
    with pytest.raises(ConfigError, match="not a bundle"):
        bundle.verify_bundle(tmp_path)


@pytest.mark.parametrize("name", SIGNED)
def test_a_file_that_is_missing_is_named(made, name):
    (made[0] / name).unlink()
    with pytest.raises(Refuted, match=f"{name} is missing"):
        bundle.verify_bundle(made[0])


@pytest.mark.parametrize("name", ["audit-final.html", "data/rows.csv", ".audit.html.swp", "sub/audit.json"])
def test_a_file_that_was_not_signed_is_named(made, name):
    path = made[0] / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("trust me")
    with pytest.raises(Refuted, match="not signed") as error:
        bundle.verify_bundle(made[0])
    assert name in str(error.value)


def test_folders_and_links_that_were_not_signed_are_named(made, tmp_path):
    (made[0] / "empty").mkdir()
    (made[0] / "elsewhere").symlink_to(tmp_path)
    (made[0] / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(Refuted, match="elsewhere is") as error:
        bundle.verify_bundle(made[0])
    assert all(f"{name} is not" in str(error.value) for name in ("elsewhere", "empty", "gone"))


@pytest.mark.parametrize("name", [*SIGNED, "bundle.json", "bundle.sig"])
def test_a_link_is_refused(made, name, tmp_path):
    """Its target may change after the bundle was verified."""
    shutil.move(made[0] / name, tmp_path / name)
    (made[0] / name).symlink_to(tmp_path / name)
    with pytest.raises(Refuted, match=f"{name} is a link"):
        bundle.verify_bundle(made[0])


def test_a_pipe_is_refused(made):
    (made[0] / "audit.json").unlink()
    os.mkfifo(made[0] / "audit.json")
    with pytest.raises(Refuted, match=r"audit\.json is missing"):
        bundle.verify_bundle(made[0])


def test_a_signed_path_outside_of_the_folder_is_refused(made, tmp_path):
    folder, key = made
    shutil.copy(folder / "audit.json", tmp_path / "audit.json")
    sign(folder, key, ["../audit.json", *SIGNED])
    with pytest.raises(Refuted, match="outside of"):
        bundle.verify_bundle(folder)


def test_all_faults_are_named_together(made):
    folder, _ = made
    (folder / "audit.json").unlink()
    (folder / "audit.html").write_text("everything is fine")
    (folder / "more.html").write_text("really")
    with pytest.raises(Refuted, match=r"audit\.html was") as error:
        bundle.verify_bundle(folder)
    assert all(name in str(error.value) for name in ("audit.json is", "more.html is"))


def test_only_the_auditors_key_reveals_a_bundle_that_somebody_else_signed(made):
    """Without the auditor's key an altered and newly signed bundle verifies, with a warning."""
    folder, key = made
    (folder / "audit.html").write_text("everything is fine")
    sign(folder, Ed25519PrivateKey.generate())
    done = verified(folder)
    assert done.returncode == 0, done.stderr
    assert "NOT verified" in done.stdout
    assert "--key" in done.stdout
    assert bundle.fingerprint(json.loads((folder / "bundle.json").read_text())["key"]) in done.stdout
    done = verified(folder, "--key", bundle.public_key(key))
    assert done.returncode == 5
    assert bundle.fingerprint(bundle.public_key(key)) in done.stderr


def test_a_swapped_key_does_not_fit_the_signature(made):
    """bundle.json names another key, with the old signature."""
    folder, _ = made
    content = json.loads((folder / "bundle.json").read_text())
    content["key"] = bundle.public_key(Ed25519PrivateKey.generate())
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(Refuted, match="not match"):
        bundle.verify_bundle(folder)


@pytest.mark.parametrize("change", [{"violations": 3}, {"files": 3}, {"key": None}, {"ledgers": ...}])
def test_signed_content_of_another_form_is_refused(made, change):
    folder, key = made
    content = json.loads((folder / "bundle.json").read_text()) | change
    content = {name: value for name, value in content.items() if value is not ...}
    text = json.dumps(content).encode()
    (folder / "bundle.json").write_bytes(text)
    (folder / "bundle.sig").write_text(key.sign(text).hex())
    with pytest.raises(Refuted, match=r"bundle\.json"):
        bundle.verify_bundle(folder)


@pytest.mark.parametrize("words", ["abc", "00" * 31, "xy" * 32, "site.pem"])
def test_a_wrong_public_key_is_a_user_mistake(made, words):
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        bundle.verify_bundle(made[0], words)


def test_the_command_prints_the_signer_and_names_added_files(made):
    folder, key = made
    done = verified(folder, "--key", bundle.public_key(key))
    assert done.returncode == 0, done.stderr
    assert "NOT verified" not in done.stdout
    assert "private rows" in done.stdout
    assert "not a release" in done.stdout
    (folder / "notes.txt").write_text("looks good")
    done = verified(folder, "--key", bundle.public_key(key))
    assert done.returncode == 5
    assert "notes.txt" in done.stderr.splitlines()[-1]
    (folder / "notes.txt").unlink()
    done = verified(folder, "--json")
    assert json.loads(done.stdout)["signer_known"] is False


def test_a_key_is_created_once_and_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "keys" / "site.pem"
    made = bundle.load_signing_key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert bundle.load_signing_key(path).private_bytes_raw() == made.private_bytes_raw()
    assert bundle.public_key(made) in bundle.describe_signer(path, tmp_path)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="PEM"):
        bundle.load_signing_key(path)
