"""Atomic writes: a failed one leaves the old file, and a private file is never readable by others."""

import os

import pytest

from fedtl._util.files import lock_folder, make_folder, write_bytes, write_file


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fill(new):
        new.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fill)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_private_file_is_private_from_its_first_byte(tmp_path):
    seen = []
    before = os.umask(0)
    try:
        write_file(
            tmp_path / "a" / "b" / "file", lambda new: seen.append(new.stat().st_mode & 0o777), private=True
        )
        write_bytes(tmp_path / "open", b"")
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert (tmp_path / "a" / "b" / "file").stat().st_mode & 0o777 == 0o600
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o666


def test_a_private_file_that_was_replaced_while_filled_is_private(tmp_path):
    def fill(new):
        new.unlink()
        new.touch(0o644)

    write_file(tmp_path / "file", fill, private=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_syncs_file_and_folder(tmp_path, monkeypatch, durable):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_file(tmp_path / "file", lambda new: new.write_bytes(b"x"), durable=durable)
    assert len(synced) == (2 if durable else 0)


def test_an_existing_folder_keeps_its_mode(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)  # whatever the umask
    make_folder(tmp_path / "a" / "b", private=True)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_lock_is_exclusive_until_its_block_ends(tmp_path):
    import fcntl

    with lock_folder(tmp_path), open(tmp_path / ".lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open(tmp_path / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
