"""``fedtl silo audit``: a plan is tested on a site's own rows before it is approved, at no cost to the budget."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedtl._util.records import to_plain
from fedtl.audit import at_site
from fedtl.audit.at_site import audit_site_plan
from fedtl.audit.power import detectable_noise_ratio
from fedtl.audit.retraining.checks import RETRAINING_CHECKS
from fedtl.audit.verdict import FAMILY_LEVEL, Check
from fedtl.deployment.coordinator.bundle import build_bundle, read_agreement
from fedtl.deployment.site.egress_lines import ApprovalWithdrawn
from fedtl.deployment.site.home import Home
from fedtl.deployment.site.rehearse import rehearse
from fedtl.deployment.site.site_plan import SitePlan, build_study
from fedtl.deployment.site.site_rows import load_rows
from fedtl.deployment.site.site_silo import make_silo
from fedtl.errors import ConfigError, Denied
from fedtl.experiment.config.load import load_experiment
from fedtl.messages import Task
from fedtl.privacy.budget import Budget
from fedtl.privacy.canaries import Canaries
from fedtl.privacy.dp_summary import SummaryRelease
from fedtl.privacy.guarantee import PrivacyGuarantee, PrivateTraining, ProtectedUnits, Releases
from fedtl.privacy.ledger import LedgerAccount
from fedtl.privacy.rows import Hashes, RowSet
from fedtl.simulation.temp_folder import LOCK
from tests.audit.retraining import only
from tests.breaks import BREAKS
from tests.commands import fedtl, start_forked
from tests.real_processes import Federation, around, wait

PRIVATE = {"epsilon": 3.0, "lifetime_epsilon": 10.0, "clip": 1.0, "statistics": "public"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    settings = load_experiment("digits", ["minimum_silos=3", "rounds=20"])
    return build_bundle(place / "bundles", "digits", settings, dp_ready=True)


@pytest.fixture
def home(tmp_path):
    Home.create(tmp_path / "home", "plain", "fl.example.org:8443")
    given = {"data__source": "digits", "data__path": "", "data__limit": 60, "policy__privacy": PRIVATE}
    Federation.change(tmp_path / "home" / "silo.toml", **given)
    return Home.open(tmp_path / "home")


def content(home):
    """Every file of the home but those of rehearsals."""
    return {
        path.relative_to(home.path): path.read_bytes()
        for path in sorted(home.path.rglob("*"))
        if path.is_file() and path.parent.name != "rehearsed"
    }


def done(home, what=""):
    seen = []
    result, path = audit_site_plan(home, what, lambda done, total: seen.append((done, total)))
    assert seen == [(done, len(RETRAINING_CHECKS) + 1) for done in range(len(RETRAINING_CHECKS) + 2)]
    facts = json.loads(path.read_text())
    assert facts == json.loads(json.dumps(to_plain(result)))
    return facts, path


def test_a_sound_plan_passes_and_nothing_of_the_home_changes(home, made):
    """A round was charged and sent before; the audit of the same rows adds nothing to the ledger or to the record of what was sent."""
    rehearse(home, made.file)
    plan = SitePlan(home, read_agreement(made.file.read_bytes(), "")[1])
    rows = load_rows(plan)
    study = build_study(plan, rows.data.classes)
    silo = make_silo(plan, study, rows)
    shared, _ = study.trainer.partition.split(study.trainer.initial(rows.data.width))
    study.trainer.fit(silo, Task("earlier", 1, 20, 0, shared))
    home.record.append(ApprovalWithdrawn(bundle=made.hash))
    before = content(home)
    assert home.ledger.relative_to(home.path) in before
    facts, path = done(home)
    assert content(home) == before
    assert path == home.path / "rehearsed" / f"{made.hash}.audit.json"
    assert path.stat().st_mode & 0o077 == 0
    assert facts["violations"] == []
    assert facts["refuted"] is False
    assert "No check failed" in facts["text"][0]
    assert "no privacy budget" in facts["text"][-2]
    assert facts["claimed"]["epsilon"] <= 3.0
    found = {check["name"]: check for check in facts["checks"]}
    assert abs(found["noise"]["value"] - 1) < 0.1
    assert abs(found["one record"]["value"] - 1) < 0.01
    assert found["one record in the metric"]["status"] == "not exercised"
    assert "one record in the metric" in next(
        line for line in facts["text"] if line.startswith("Not exercised")
    )


def test_a_fault_is_refuted(home, made, monkeypatch):
    """Of a bundle that was not rehearsed, at a site without a ledger, which the audit does not make."""
    fault = BREAKS["noise halved on the model"]
    fault.patch(monkeypatch)
    only(monkeypatch, fault.checks)
    before = content(home)
    found, path = audit_site_plan(home, str(made.file), lambda *_: None)
    assert content(home) == before
    assert not home.ledger.exists()
    assert any("noise of every tensor" in line for line in found.violations)
    assert "REFUTED" in found.text[0]
    assert json.loads(path.read_text())["refuted"] is True


@pytest.mark.slow
def test_what_is_measured_of_a_plan_that_sends_summaries_alone(tmp_path):
    summary = SummaryRelease("ridge", 2.0, 1.0, 60, every_round=False)
    guarantee = PrivacyGuarantee(
        LedgerAccount(tmp_path, "a", RowSet("", "", 60, Hashes()), Budget(3.0, 1e-5)),
        ProtectedUnits(60),
        PrivateTraining(1.0, 2.0, 1.0, (0,), 4),
        Releases(summaries=(summary,)),
        epsilon=3.0,
        delta=1e-5,
        canaries=Canaries(400, 0, tmp_path),
    )
    audited = SimpleNamespace(guarantee=guarantee, rounds=4, private_phases=list)
    values = {"noise on summaries": 1.02, "one record in the summaries": 0.97}
    said = at_site._summary(audited, [Check(name, "a", 0.5, value, "") for name, value in values.items()], [])
    assert said[2].startswith("Measured: the noise has 1.020 times")
    assert said[2].endswith("by 0.970 clips.")
    absent = int((~guarantee.canaries.members()).sum())
    assert f"below {detectable_noise_ratio(absent, FAMILY_LEVEL / 2):.2f} times" in said[3]


@pytest.mark.parametrize("fault", ["noise halved on the model", ""])
def test_the_command_prints_its_verdict_and_its_exit_code(home, made, fault):
    """Of the checks that find this fault: the others are those of the function above."""
    rehearse(home, made.file)
    env = around(FEDTL_BREAK=fault, FEDTL_CHECKS="noise of every tensor")
    done = fedtl("silo", "audit", home.path, env=env, imports=["tests.breaks", "tests.audit.retraining"])
    assert done.returncode == (5 if fault else 0), done.stderr
    assert ("REFUTED: do not sign" in done.stdout) == bool(fault)
    assert ("No check failed" in done.stdout) == (not fault)
    assert ("do not approve it" in done.stderr.splitlines()[-1]) == bool(fault)
    assert "Traceback" not in done.stderr


def scratch_folder(pid):
    """The folder with the scratch ledger of a process, once there is one; its lock is open."""
    opened = [Path(os.readlink(file)) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()]
    locks = [path for path in opened if path.name == LOCK]
    return next((path.parent for path in locks if (path.parent / "canaries").exists()), None)


@pytest.mark.slow
def test_an_interrupted_audit_leaves_nothing(home, made, tmp_path):
    rehearse(home, made.file)
    before, log = content(home), tmp_path / "log"
    process = start_forked(["fedtl", "silo", "audit", str(home.path)], log, tmp_path, around())
    scratch = wait("scratch folder", lambda: scratch_folder(process.pid), 60, about=log.read_text)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "interrupted" in log.read_text().splitlines()[-1]
    assert content(home) == before
    assert not list((home.path / "rehearsed").glob("*.audit.json"))
    assert not scratch.exists()


def test_what_cannot_be_audited_is_refused(home, made, tmp_path):
    with pytest.raises(ConfigError, match="no bundle"):
        done(home)
    with pytest.raises(ConfigError, match="does not exist"):
        done(home, "0" * 64)
    Federation.change(home.path / "silo.toml", policy__privacy=None)
    with pytest.raises(ConfigError, match="no claim"):
        done(Home.open(home.path), str(made.file))
    Federation.change(home.path / "silo.toml", policy__privacy=PRIVATE, policy__roles=["body"])
    with pytest.raises(Denied):
        done(Home.open(home.path), str(made.file))
