"""The promises of whole runs of digits: the run folder, processes, a stop, and the audit's attacks and retraining."""

import json

import pytest

from fedtl.audit.audit import AuditOptions, audit_run, read_audit
from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import RETRAINING_CHECKS, retraining_checks
from fedtl.audit.verdict import failed
from fedtl.audit.workload import Effort
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run as run_experiment
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.methods.registry import ADAPTATION, METHODS
from fedtl.results.audit import Adversary
from fedtl.simulation.shared_store import temporary_store
from tests.experiment.runs import do, numbers, same, tensors
from tests.experiments import MIXED, ROUNDS_ONLY

SILOS = ("plain", "inverted", "faint")
SMALL = ["rounds=2", "data.limit=40"]
TWO = [*SMALL, 'data.silos=["plain", "faint"]', "engine.name=serial", *ROUNDS_ONLY]
PRIVATE = ["privacy.epsilon=8", "privacy.tuning=public"]


def settings_of(name, sources=6):
    """The settings that name a method, and the rows that it needs beside those of labelled silos."""
    few = [f"method.sources={sources}"] if name in ("kd3a", "select_start") else []
    second = "data.target_domain=inverted" if name in ADAPTATION else 'data.unlabelled=["faint"]'
    hidden = [second] if METHODS[name]().needs_target else []
    public = ["data.public=['noise:9']"] if name in ("feddf", "fedmd") else []
    return [f"method.name={name}", *few, *hidden, *public]


def experiment_of(name, *settings):
    silos = f"data.silos={json.dumps(SILOS)}"
    return load_experiment("digits", [*SMALL, *settings_of(name, 3), silos, *settings])


def run_folder(run, folder):
    """A run of the method, with each step at home, writes the folder that its result says."""
    result = do(folder, experiment_of(run.name, "engine.name=serial", *MIXED))
    assert set(result["silos"]) == set(SILOS)
    assert json.loads((folder / "result.json").read_text()) == result
    assert len((folder / "history.jsonl").read_text().splitlines()) == 2
    scored = {name: its["accuracy"] for name, its in result["silos"].items() if "accuracy" in its}
    assert result["worst"]["accuracy"] == min(scored.values())
    assert result["mean"]["accuracy"] == pytest.approx(sum(scored.values()) / len(scored))
    for name in SILOS:
        assert (folder / "silos" / name / "local.safetensors").exists()


class Killed(Exception):
    pass


def _stop(round):
    if round.after.round == 1:
        raise Killed


def whole_run(run, folder):
    """In processes, and after a stop, the result and all tensors are those of one process that was not stopped."""
    serial = experiment_of(run.name, "engine.name=serial", *ROUNDS_ONLY)
    wanted = do(folder / "serial", serial)
    many = experiment_of(run.name, "engine.name=processes", "engine.workers=2", *ROUNDS_ONLY)
    assert numbers(do(folder / "many", many)) == numbers(wanted)
    assert same(tensors(folder / "serial"), tensors(folder / "many"))
    again = RunFolder.create(folder / "again", serial)
    with pytest.raises(Killed):
        run_experiment(serial, again, progress=_stop)
    assert run_experiment(serial, again).silos.keys() == wanted["silos"].keys()
    assert numbers(again.read_json("result.json")) == numbers(wanted)
    assert same(tensors(folder / "serial"), tensors(folder / "again"))


def _of(name, *settings):
    second = ["data.target_domain=inverted"] if METHODS[name]().needs_target else []
    return load_experiment("digits", [*TWO, f"method.name={name}", *second, *settings])


def attacked(run, folder):
    """
    A run without privacy is attacked, as the server and as who has the model, and not refuted; with a table of role costs where something
    else than the model leaves a silo.
    """
    method = run.trainer.method
    more = any(slot.crosses for slot in method.slots) or any(term.modules(4, (4,)) for term in method.losses)
    finished = RunFolder.create(folder / "run", _of(run.name, "audit.transcript=2"))
    run_experiment(finished.experiment(), finished)
    for adversary in (Adversary.SERVER, Adversary.MODEL):
        effort = Effort(1, 1, 2, roles=more and adversary is Adversary.SERVER, planted=False)
        options = AuditOptions(adversary, effort)
        found = audit_run(finished, folder / adversary, options, folder / "key", lambda *_: None)
        assert not found.violations
        assert read_audit(folder / adversary) == found
    assert 0 <= found.membership["rmia"].auc <= 1
    assert "manifest" in {check.name for check in found.checks}


def retrained(name, folder):
    """All checks of the audit that train a silo's private round again."""
    with temporary_store() as shelf:
        study = with_guarantees(
            build(_of(name, *PRIVATE), shelf, shelf), RunFolder.create(folder / "run", _of(name))
        )
        return retraining_checks(silo_of_study(study, "plain"), [])


def private_audit(run, folder):
    """A private round passes every check of the audit."""
    checks = retrained(run.name, folder)
    assert tuple(check.name for check in checks) == RETRAINING_CHECKS
    assert not failed(checks)
