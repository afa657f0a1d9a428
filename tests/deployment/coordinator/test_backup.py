"""The coordinator's folder, restored from a backup, and what a restore would forget."""

import json
import shutil
import tarfile

import pytest
import torch

from fedtl.deployment.archive import files_below
from fedtl.deployment.coordinator import backup
from fedtl.deployment.coordinator.admitted import note_expelled, read_admitted
from fedtl.deployment.coordinator.backup import back_up_server, restore_server
from fedtl.deployment.coordinator.server import create_server
from fedtl.deployment.coordinator.site_rounds import StudyRounds, site_rounds
from fedtl.deployment.coordinator.sites import admit_site
from fedtl.deployment.coordinator.study import HostedStudy
from fedtl.deployment.coordinator.study_files import StudyPlan
from fedtl.deployment.site.keys import create_node_key
from fedtl.errors import Refused
from fedtl.federation.policy import MEANING, Code
from fedtl.federation.rounds import FederationConfig, ServerState
from fedtl.methods.server import ServerStep
from fedtl.results.run import HistoryLine


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "srv"
    create_server(folder, "localhost", "127.0.0.1:1", 1)
    create_node_key(tmp_path / "clinic", "clinic")
    admit_site(folder, tmp_path / "clinic.pub", "")
    config = FederationConfig("first", 0, 4, ServerStep())
    plan = StudyPlan(config, {}, "first", 60.0, 3, "b" * 64, "p" * 64, True)
    HostedStudy.create(folder / "studies" / "first", plan, {"body.w": torch.zeros(2)})
    finish(folder, 1, silos=["clinic", "lab"])
    return folder


def finish(folder, number, silos=(), **left_out):
    study = HostedStudy(folder / "studies" / "first")
    study.log.append(HistoryLine(number, 1.0, {name: {} for name in silos}, left_out, 0, 0))


def test_a_restored_coordinator_has_its_studies_keys_and_sites(server, tmp_path):
    (server / "state.db").write_bytes(b"updates of sites")
    back_up_server(server, tmp_path / "file")
    assert b"updates of sites" not in (tmp_path / "file").read_bytes()
    tls = (server / "tls" / "ca.key").read_bytes()
    shutil.rmtree(server)
    assert restore_server(server, tmp_path / "file").replaced is None
    assert (server / "tls" / "ca.key").read_bytes() == tls
    assert list(read_admitted(server)) == ["clinic"]
    assert [line.round for line in HostedStudy(server / "studies" / "first").log.lines()] == [1]
    assert str(server) in (server / "gate" / "nginx.conf").read_text()


def test_a_backup_while_a_study_runs_leaves_out_what_is_gone_or_still_being_written(
    server, tmp_path, monkeypatch
):
    study = server / "studies" / "first"
    (study / ".early").mkdir()
    (study / ".early" / "0.safetensors").write_bytes(b"an update")
    (study / "queued").write_text("1.0")

    def listed(folder, names):
        found = files_below(folder, names)
        (study / "queued").unlink()
        return found

    monkeypatch.setattr(backup, "files_below", listed)
    back_up_server(server, tmp_path / "file")
    with tarfile.open(tmp_path / "file") as archive:
        names = archive.getnames()
    assert {name for name in names if name.startswith("studies/")} == {
        f"studies/first/{name}" for name in ("history.jsonl", "plan.json", "start.safetensors")
    }
    shutil.rmtree(server)
    restore_server(server, tmp_path / "file")


def test_a_backup_without_a_round_that_sites_paid_for_is_refused(server, tmp_path):
    back_up_server(server, tmp_path / "file")
    finish(server, 2, silos=["clinic"])
    with pytest.raises(Refused, match="has 1 rounds"):
        restore_server(server, tmp_path / "file")
    assert len(HostedStudy(server / "studies" / "first").log.lines()) == 2


def test_a_round_that_ended_while_the_backup_was_made_is_not_in_it(server, tmp_path):
    """The checkpoint is copied before the history. With a round more in its history, the study could not go on."""
    study = HostedStudy(server / "studies" / "first")
    study.log.save(ServerState(1, {"body.w": torch.ones(2)}))
    for number in (2, 3):
        finish(server, number, silos=["clinic"])
    back_up_server(server, tmp_path / "file")
    with pytest.raises(Refused, match="has 1 rounds"):
        restore_server(server, tmp_path / "file")
    shutil.rmtree(server)
    restore_server(server, tmp_path / "file")
    assert [line.round for line in study.log.lines()] == [1]
    assert study.state().round == 1


def test_damaged_files_are_restored_and_rounds_counted_all_the_same(server, tmp_path):
    """Their messages say: restore it from a backup."""
    back_up_server(server, tmp_path / "one")
    finish(server, 2, silos=["clinic"])
    back_up_server(server, tmp_path / "two")
    study = server / "studies" / "first"
    (study / "plan.json").write_text("[]")
    (study / "history.jsonl").write_bytes(b"\xff\x00\n{}\n")
    (server / "admitted.json").write_text("")
    with pytest.raises(Refused, match="has 1 rounds"):
        restore_server(server, tmp_path / "one")
    restore_server(server, tmp_path / "two")
    assert [line.round for line in HostedStudy(study).log.lines()] == [1, 2]
    assert list(read_admitted(server)) == ["clinic"]
    (server / "expelled.json").write_text("")
    with pytest.raises(Refused, match="may admit"):
        restore_server(server, tmp_path / "two")


def test_a_restore_does_not_take_an_expelled_site_back(server, tmp_path):
    back_up_server(server, tmp_path / "file")
    note_expelled(server, read_admitted(server)["clinic"].key, "clinic")
    with pytest.raises(Refused, match="'clinic' was expelled"):
        restore_server(server, tmp_path / "file")


def test_the_rounds_of_a_site(server):
    """A round counts as asked where an update may have left: not where the site refused or was away."""
    finish(server, 2, clinic="clinic: no reply within 60 s; it is asked again next round")
    finish(
        server, 3, clinic=f"clinic: {MEANING[Code.DECLINED]} ({Code.DECLINED})", lab="lab: is not connected"
    )
    assert site_rounds(server, "clinic").studies == {"first": StudyRounds([1], [2], 2)}
    assert site_rounds(server, "lab").studies == {"first": StudyRounds([1], [], 1)}
    assert site_rounds(server, "nobody").studies == {}
    (server / "studies" / "first" / "runs.jsonl").write_text("")
    assert site_rounds(server, "lab").studies["first"].last == 1
    finish(server, 4, silos=["lab"])
    assert site_rounds(server, "lab").studies["first"].last == 5  # a round is under way
    (server / "studies" / "first" / "result.json").write_text(json.dumps({}))
    assert site_rounds(server, "lab").studies["first"].last == 4
