"""The audit of methods that keep tensors between rounds: with and without privacy, as the server and as who has the model."""

import pytest
import torch

from fedtl.audit.audit import AuditOptions, audit_run, read_audit
from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import RETRAINING_CHECKS, retraining_checks
from fedtl.audit.verdict import failed
from fedtl.audit.workload import Effort
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.results.audit import Adversary
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.trainer import Trainer
from tests.experiments import ROUNDS_ONLY

SMALL = ["rounds=2", "data.limit=40", 'data.silos=["plain", "faint"]', "engine.name=serial", *ROUNDS_ONLY]
PRIVATE = ["privacy.epsilon=8", "privacy.tuning=public"]
SLOTS = [name for name, make in METHODS.items() if make().slots]
# A set that stays, one that is sent, several models, and modules of a loss. The attacks meet the same in the others: left to the night.
KINDS = ("ditto", "scaffold", "ifca", "moon")
ATTACKED = [name if name in KINDS else pytest.param(name, marks=pytest.mark.nightly) for name in SLOTS]
ALLOWED = [name for name in SLOTS if not list(private_problems(METHODS[name]()))]


def of(name, *settings):
    second = ["data.target_domain=inverted"] if METHODS[name]().needs_target else []
    return load_experiment("digits", [*SMALL, f"method.name={name}", *second, *settings])


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKED)
def test_a_run_without_privacy_is_attacked_but_not_refuted(name, tmp_path):
    """With a table of role costs where something else than the model leaves a silo."""
    method = METHODS[name]()
    more = any(slot.crosses for slot in method.slots) or any(term.modules(4, (4,)) for term in method.losses)
    folder = RunFolder.create(tmp_path / "run", of(name, "audit.transcript=2"))
    run(folder.experiment(), folder)
    for adversary in (Adversary.SERVER, Adversary.MODEL):
        effort = Effort(1, 1, 2, roles=more and adversary is Adversary.SERVER, planted=False)
        found = audit_run(
            folder, tmp_path / adversary, AuditOptions(adversary, effort), tmp_path / "key", lambda *_: None
        )
        assert not found.violations
        assert read_audit(tmp_path / adversary) == found
    assert 0 <= found.membership["rmia"].auc <= 1
    assert "manifest" in {check.name for check in found.checks}


def retrained(name, folder):
    with temporary_store() as shelf:
        study = with_guarantees(
            build(of(name, *PRIVATE), shelf, shelf), RunFolder.create(folder / "run", of(name))
        )
        return retraining_checks(silo_of_study(study, "plain"), [])


@pytest.mark.parametrize("name", ALLOWED)
def test_a_private_round_is_not_refuted(name, tmp_path):
    checks = retrained(name, tmp_path)
    assert tuple(check.name for check in checks) == RETRAINING_CHECKS
    assert not failed(checks)


def test_a_personal_model_trained_beside_the_noise_is_refuted(tmp_path, monkeypatch):
    """What stays at the silo, too, must follow from the noisy sums, because later rounds use it."""
    sound = Trainer.fit

    def fit(self, silo, task):
        update = sound(self, silo, task)
        mean = silo.data.train.x.double().nan_to_num(0.0).mean()
        shift = 1e-3 * torch.tanh(mean)
        silo.local = {
            key: value + shift.to(value) if key.startswith("personal/head") else value
            for key, value in silo.local.items()
        }
        return update

    monkeypatch.setattr(Trainer, "fit", fit)
    reasons = {check.name: check.reason for check in failed(retrained("mrmtl", tmp_path))}
    assert "personal" in reasons["noisy sums alone"]
