"""A backup restores a site to the byte, and is refused where it may have forgotten spent budget."""

import json
import shutil
import stat
import tarfile
from io import BytesIO

import pytest

from fedtl._util.files import write_json
from fedtl.cli import backup as cli_backup
from fedtl.deployment import archive
from fedtl.deployment.coordinator.site_rounds import SiteRounds, StudyRounds
from fedtl.deployment.running import only_one
from fedtl.deployment.site import backup, named_files
from fedtl.deployment.site.backup import back_up_site, restore_site
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.status import dataset_budget
from fedtl.errors import ConfigError, LedgerDamaged, Refused
from fedtl.messages import Update
from tests.deployment.site.sites import PRIVATE, Site, same
from tests.real_processes import Federation

SHUT = {"policy__metrics": [], "policy__share_row_count": False}


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A private site, backed up after its first round and after its second; ``site.reply`` is the last one."""
    folder = tmp_path_factory.mktemp("site")
    site = Site(folder, dp_ready=True, policy__privacy={**PRIVATE, "lifetime_epsilon": 30.0}, **SHUT)
    for number in (1, 2):
        site.reply = site.ask(site.task(number))
        assert isinstance(site.reply, Update)
        back_up_site(site.home, folder / f"after {number}")
    return site, folder


def seen(path, rounds, site="plain"):
    write_json(path, SiteRounds(site, {"s": StudyRounds(list(range(1, rounds + 1)), [], rounds)}))
    return path


def test_a_restored_site_goes_on_where_it_was(used, tmp_path):
    site, folder = used
    (tmp_path / "clinic").mkdir()
    restored = restore_site(tmp_path / "clinic", folder / "after 2", seen(tmp_path / "seen", 2))
    assert restored.replaced is None
    home = Home.open(tmp_path / "clinic")
    assert dataset_budget(home) == dataset_budget(site.home)
    names = {path.relative_to(home.path) for path in home.path.rglob("*") if path.is_file()}
    for name in names:
        if name.name != "ledger.sqlite" and name.name != "record.sqlite":  # SQLite's copy has other pages
            assert (home.path / name).read_bytes() == (site.home.path / name).read_bytes(), name
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "after 2").stat().st_mode) == 0o600
    again = Site.__new__(Site)
    again.home, again.file, again.shared = home, site.file, site.shared
    assert same(again.ask(site.task(2)).delta, site.reply.delta)  # the stored one
    assert isinstance(again.ask(site.task(3)), Update)


NAMED = {
    **{"certificate": "coordinator.crt", "weights": "./first/w.safetensors", "public": "public.safetensors"},
    **{"model_folder": "text", "data__scale": "constants.toml", "data__path": "rows.csv"},
}
TAKEN = {
    *("coordinator.crt", "first/w.safetensors", "public.safetensors", "constants.toml"),
    *("text/config.json", "text/tokenizer.json"),
}


def site_with_files(folder, **settings):
    """A site that trains without privacy, and has every file that ``NAMED`` names, and some more."""
    home = Home.create(folder / "clinic", "plain", "localhost:1")
    Federation.change(home.path / "silo.toml", policy__privacy=None, key_file="key", **{**NAMED, **settings})
    for name in (*TAKEN, "rows.csv", "key", "text/vocab.txt", "first/other"):
        (home.path / name).parent.mkdir(exist_ok=True)
        (home.path / name).write_text(name)
    return Home.open(home.path)


def names_in(file):
    with tarfile.open(file) as content:
        return set(content.getnames())


def test_a_backup_has_the_files_of_the_folder_that_silo_toml_names(tmp_path):
    home = site_with_files(tmp_path)
    assert back_up_site(home, tmp_path / "file") == ()
    own = {"silo.toml", "node.key", "node.key.pub", "secret", "exec.secret", archive.CONTENTS}
    assert names_in(tmp_path / "file") == TAKEN | own
    restored = restore_site(tmp_path / "new", tmp_path / "file", None)
    assert restored.replaced is None
    for name in TAKEN:
        assert (tmp_path / "new" / name).read_text() == name


def test_a_backup_that_waits_for_a_round_says_so(tmp_path, monkeypatch, capsys):
    home = Home.create(tmp_path / "clinic", "plain", "localhost:1")
    monkeypatch.setattr(backup, "back_up_site", lambda home, file: ())
    cli_backup.back_up_silo(home.path, tmp_path / "file")
    assert "working on a round" not in capsys.readouterr().err
    with home.alone():
        cli_backup.back_up_silo(home.path, tmp_path / "file")
    assert "is working on a round" in capsys.readouterr().err


def test_a_backup_has_no_file_from_elsewhere_and_says_so(tmp_path, monkeypatch):
    (tmp_path / "outside").write_text("x")
    outside = {"weights": str(tmp_path / "outside"), "public": "../outside", "certificate": "first/link"}
    home = site_with_files(tmp_path, **outside, data__scale="rows.csv", model_folder=".")
    (home.path / "first" / "link").symlink_to(tmp_path / "outside")
    (home.path / "config.json").write_text("{}")
    (home.path / "tokenizer.json").write_text("x" * 100)
    monkeypatch.setattr(named_files, "MAX_NAMED_BYTES", 50)
    left_out = back_up_site(home, tmp_path / "file")
    assert [line.partition(" = ")[0] for line in left_out] == [
        *("certificate", "weights", "public", "model_folder, tokenizer.json")
    ]
    assert not names_in(tmp_path / "file") & {"outside", "first/link", "rows.csv", "key", "tokenizer.json"}
    assert "config.json" in names_in(tmp_path / "file")


@pytest.mark.parametrize("name", ["first/other", "constants.toml/x", "rows.csv", "key", "first/../../x"])
def test_a_restore_accepts_no_other_file_than_those_that_silo_toml_names(tmp_path, name):
    home = site_with_files(tmp_path)
    entries = [(path, (home.path / path).read_bytes()) for path in ("silo.toml", "constants.toml")]
    packed(tmp_path / "file", *entries, (name, b"x"))
    with pytest.raises(ConfigError, match=f"'{name}' is not"):
        restore_site(tmp_path / "new", tmp_path / "file", None)
    assert not (tmp_path / "new").exists()


def test_a_backup_that_is_older_than_the_folder_is_refused(used):
    site, folder = used
    before = {path.name: path.read_bytes() for path in site.home.path.glob("*.sqlite*")}
    with pytest.raises(Refused, match="ledger.sqlite, plain"):
        restore_site(site.home.path, folder / "after 1", None)
    assert {path.name: path.read_bytes() for path in site.home.path.glob("*.sqlite*")} == before
    assert not list(folder.glob(".*"))


def test_the_tip_alone_shows_that_a_backup_is_older(used, tmp_path):
    site, folder = used
    shutil.copytree(site.home.path, tmp_path / "home")
    for name in ("ledger.sqlite", "record.sqlite"):
        (tmp_path / "home" / name).unlink()
    with pytest.raises(Refused, match="ledger.sqlite, plain"):
        restore_site(tmp_path / "home", folder / "after 1", None)
    restored = restore_site(tmp_path / "home", folder / "after 2", None)
    assert (restored.replaced / "node.key").exists()


@pytest.mark.parametrize(("last", "problem"), [(1, None), (2, "round 2 of study"), (None, "server rounds")])
def test_what_the_coordinator_saw_decides_where_the_folder_is_lost(used, tmp_path, last, problem):
    rounds = None if last is None else seen(tmp_path / "seen", last)
    if problem:
        with pytest.raises(Refused, match=problem):
            restore_site(tmp_path / "clinic", used[1] / "after 1", rounds)
        assert not (tmp_path / "clinic").exists()
    else:
        restore_site(tmp_path / "clinic", used[1] / "after 1", rounds)


def test_the_rounds_of_another_site_are_no_evidence(used, tmp_path):
    with pytest.raises(ConfigError, match="of site 'other'"):
        restore_site(tmp_path / "clinic", used[1] / "after 2", seen(tmp_path / "seen", 2, "other"))


def test_nothing_is_restored_while_the_site_runs(used):
    site, folder = used
    with only_one(site.home.path, ("node",), "fedtl silo run"), pytest.raises(ConfigError, match="process"):
        restore_site(site.home.path, folder / "after 2", None)


def test_a_broken_ledger_is_not_backed_up(used, tmp_path):
    shutil.copytree(used[0].home.path, tmp_path / "home")
    (tmp_path / "home" / "ledger.sqlite.tip").write_text("{}")
    with pytest.raises(LedgerDamaged):
        back_up_site(Home.open(tmp_path / "home"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def packed(path, *entries):
    """A tar file of (name, content) or of a TarInfo."""
    with tarfile.open(path, "w") as file:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                file.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                file.addfile(info, BytesIO(entry[1]))
    return path


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


CONTENTS = json.dumps({"kind": "silo", "name": "x", "at": "", "fedtl": "", "files": {}}).encode()


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([("../silo.toml", b"")], "not a file of"),
        ([("state/../../x", b"")], "not a file of"),
        ([("/etc/x", b"")], "not a file of"),
        ([("authorized_keys", b"")], "not a file of"),
        ([link("silo.toml")], "not a file of"),
        ([link("state/x", tarfile.CHRTYPE)], "not a file of"),
        ([("silo.toml", b""), ("silo.toml", b"")], "twice"),
        ([("silo.toml", b"x" * 101)], "more than"),
        ([("silo.toml", b"x"), ("backup.json", CONTENTS)], "differs from"),
        ([("silo.toml", b"x")], "backup.json"),
        ([("backup.json", CONTENTS.replace(b"silo", b"server"))], "of a server"),
    ],
)
def test_a_file_that_is_no_backup_is_refused(tmp_path, monkeypatch, entries, match):
    monkeypatch.setattr(archive, "MAX_BYTES", 100 if match == "more than" else 10_000)
    with pytest.raises(ConfigError, match=match):
        restore_site(tmp_path / "clinic", packed(tmp_path / "file", *entries), None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_text_is_no_backup(tmp_path):
    (tmp_path / "file").write_text("x" * 2000)
    with pytest.raises(ConfigError, match="not a backup"):
        restore_site(tmp_path / "clinic", tmp_path / "file", None)
