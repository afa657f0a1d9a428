"""The audit against one fault at a time, put where a run's canaries do not look; each is refuted by the check named for it."""

import pytest
from torch import nn

from fedtl.audit.retraining.audited_silo import stage_of
from fedtl.audit.retraining.run import REHEARSALS, rehearse
from fedtl.audit.verdict import FAMILY, failed
from fedtl.experiment.config.load import load
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.models import builtin
from fedtl.simulation.shared_store import temporary_store
from tests.breaks import BREAKS, DP, FIGURE

SMALL = [
    *("rounds=4", "data.limit=60", "engine.name=serial", 'data.silos=["plain", "faint"]', "train.epochs=2"),
    *("privacy.epsilon=8", "privacy.tuning=public", "audit.canaries=100", "train.batch_size=16"),
]
OTHERS = 400  # checks of a whole audit, among which the family's level is shared


def rehearsed(folder, *settings):
    """All rehearsals of one silo, and those that fail at the level they have in a whole audit."""
    experiment = load("digits", [*SMALL, *settings])
    with temporary_store() as shelf:
        study = build(experiment, shelf, shelf).promised(RunFolder.create(folder / "run", experiment))
        checks = rehearse(stage_of(study, "plain"), [])
    return checks, {check.name: check.reason for check in failed(checks, FAMILY * len(checks) / OTHERS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKS)
def test_a_fault_is_refuted_by_the_check_that_is_there_for_it(name, monkeypatch, tmp_path):
    its = BREAKS[name]
    its.patch(monkeypatch)
    _, found = rehearsed(tmp_path, *its.settings)
    print(f"\n| {name} | {'; '.join(sorted(found))} |")
    assert set(its.checks) <= set(found), found


@pytest.mark.parametrize("method", ["fedtl", "fedrep", "fedprox", "fedbabu", "fedavg"])
def test_a_sound_mechanism_is_not_refuted(method, tmp_path):
    checks, found = rehearsed(tmp_path, DP, FIGURE, f"method.name={method}")
    assert not found
    assert tuple(check.name for check in checks) == REHEARSALS
    assert [check.name for check in checks if check.p is None] == ["fresh noise"]


def test_a_sound_model_with_dropout_is_not_refuted(monkeypatch, tmp_path):
    """Its masks go by place in the batch, so that a record's share could not be told from theirs."""
    sound = builtin._convnet

    def with_dropout(shape, norm):
        net, path = sound(shape, norm)
        net.features.append(nn.Dropout(0.5))
        return net, path

    monkeypatch.setattr(builtin, "_convnet", with_dropout)
    checks, found = rehearsed(tmp_path)
    assert not found
    assert next(check.value for check in checks if check.name == "one record") == pytest.approx(1, abs=0.01)
