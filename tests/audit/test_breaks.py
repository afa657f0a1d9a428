"""The audit with one fault at a time that a run's canaries cannot show; the named check refutes each fault."""

import pytest
from torch import nn

from fedtl.audit.retraining.audited_silo import silo_of_study
from fedtl.audit.retraining.checks import RETRAINING_CHECKS, retraining_checks
from fedtl.audit.verdict import FAMILY_LEVEL, failed
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import with_guarantees
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.models import builtin
from fedtl.simulation.shared_store import temporary_store
from tests.breaks import BREAKS, DP, FIGURE

SMALL = [
    *("rounds=4", "data.limit=60", "engine.name=serial", 'data.silos=["plain", "faint"]', "train.epochs=2"),
    *("privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=100", "train.batch_size=16"),
]
CHECKS = 400  # of a whole audit, which share the family's level


def retrained(folder, *settings):
    """All retraining checks of one silo, and those that fail at the level that they have in a whole audit."""
    experiment = load_experiment("digits", [*SMALL, *settings])
    with temporary_store() as shelf:
        study = with_guarantees(build(experiment, shelf, shelf), RunFolder.create(folder / "run", experiment))
        checks = retraining_checks(silo_of_study(study, "plain"), [])
    return checks, {check.name: check.reason for check in failed(checks, FAMILY_LEVEL * len(checks) / CHECKS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_refuted_by_the_named_check(name, monkeypatch, tmp_path):
    fault = BREAKS[name]
    fault.patch(monkeypatch)
    _, violations = retrained(tmp_path, *fault.settings)
    print(f"\n| {name} | {'; '.join(sorted(violations))} |")
    assert set(fault.checks) <= set(violations), violations


@pytest.mark.parametrize("method", ["fedtl", "fedrep", "fedprox", "fedbabu", "fedavg"])
def test_a_sound_mechanism_is_not_refuted(method, tmp_path):
    checks, violations = retrained(tmp_path, DP, FIGURE, f"method.name={method}")
    assert not violations
    assert tuple(check.name for check in checks) == RETRAINING_CHECKS
    assert [check.name for check in checks if check.p is None] == ["fresh noise"]


def test_a_sound_model_with_dropout_is_not_refuted(monkeypatch, tmp_path):
    """Dropout masks depend on the position in the batch, which would hide a record's contribution."""
    sound = builtin._convnet

    def with_dropout(*settings):
        net, path = sound(*settings)
        net.features.append(nn.Dropout(0.5))
        return net, path

    monkeypatch.setattr(builtin, "_convnet", with_dropout)
    checks, violations = retrained(tmp_path)
    assert not violations
    assert next(check.value for check in checks if check.name == "one record") == pytest.approx(1, abs=0.01)
