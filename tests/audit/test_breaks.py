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
from tests.audit.retraining import only
from tests.breaks import BREAKS, DP, FIGURE, RIDGE

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
        found = retraining_checks(silo_of_study(study, "plain"), [])
    return found, {check.name: check.reason for check in failed(found, FAMILY_LEVEL * len(found) / CHECKS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_refuted_by_the_named_check(name, monkeypatch, tmp_path):
    fault = BREAKS[name]
    fault.patch(monkeypatch)
    only(monkeypatch, fault.checks)
    _, violations = retrained(tmp_path, *fault.settings)
    print(f"\n| {name} | {'; '.join(sorted(violations))} |")
    assert set(fault.checks) <= set(violations), violations


@pytest.mark.parametrize(
    "method",
    [
        "fedtl",
        "fedrep",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("fedprox", "fedbabu", "fedavg")),
    ],
)
def test_a_sound_mechanism_is_not_refuted(method, tmp_path):
    found, violations = retrained(tmp_path, DP, FIGURE, f"method.name={method}")
    assert not violations
    assert tuple(check.name for check in found) == RETRAINING_CHECKS
    skipped = [check.name for check in found if check.p is None]
    assert skipped == ["fresh noise", "one record in the summaries"]


def test_a_sound_summary_is_not_refuted_and_nothing_else_is_exercised(tmp_path):
    found, violations = retrained(tmp_path, *RIDGE)
    assert not violations
    exercised = {check.name: check.value for check in found if check.p is not None}
    assert exercised.keys() == {
        *("local-only state", "noisy sums alone", "noise of each release", "shares of one record"),
        *("one record in the summaries", "before the mechanism"),
    }
    assert exercised["one record in the summaries"] == pytest.approx(1, abs=1e-3)


def test_a_sound_model_with_dropout_is_not_refuted(monkeypatch, tmp_path):
    """Dropout masks depend on the position in the batch, which would hide a record's contribution."""
    sound = builtin._convnet

    def with_dropout(*settings):
        net, path = sound(*settings)
        net.features.append(nn.Dropout(0.5))
        return net, path

    monkeypatch.setattr(builtin, "_convnet", with_dropout)
    found, violations = retrained(tmp_path)
    assert not violations
    assert next(check.value for check in found if check.name == "one record") == pytest.approx(1, abs=0.01)
