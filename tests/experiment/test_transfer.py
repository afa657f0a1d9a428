"""What transfers between silos: the trainings, what is frozen in them, the curves, and the recommended cut."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fedtl._util.records import from_plain, to_plain
from fedtl.errors import ConfigError, DataError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.pages import write_page
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.transfer import transferability as command
from fedtl.experiment.transfer.at_silo import do_transfer
from fedtl.experiment.transfer.fragment import write_cut
from fedtl.experiment.transfer.summary import choose_cut, spread, summarize
from fedtl.messages import Task
from fedtl.methods.sharing import fedtl
from fedtl.models.net import stage_tensors
from fedtl.results.metrics import Measured
from fedtl.results.transferability import Begin, SiloTransfer, StageMeasures, Training, Transferability
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.loop import TrainingConfig
from fedtl.training.similarity import stage_measures, stage_outputs
from fedtl.training.trainer import Trainer
from fedtl.training.transplant import DONORS, FROZEN, donors_of, plan, transplanted
from tests.training.silos import data_of, mlp, same, silo_at

SMALL = (
    *(
        "rounds=1",
        "data.limit=40",
        'data.silos=["plain", "inverted"]',
        "model.name=mlp",
        "model.settings.width=4",
    ),
    "compare.seeds=[3]",
)


@pytest.fixture(scope="module")
def at_home():
    """A trainer, a silo, the donors once it has its own model, and its task."""
    trainer = Trainer(mlp(), fedtl(), TrainingConfig(batch_size=8))
    silo = silo_at(trainer, data=data_of(1, 24))
    shared, _ = trainer.partition.split(trainer.initial(silo.data.width))
    shared = {name: tensor + 0.1 for name, tensor in shared.items()}
    donors = donors_of(trainer, silo, shared, replace(mlp(), seed=1))
    task = Task("t", 3, 2, 0, shared)
    own = transplanted(trainer, silo, task, donors, Begin.OWN, 0)
    return trainer, silo, replace(donors, own=own), task


def test_the_plan_is_yosinskis_for_every_number_of_stages():
    kinds = list(plan(2, pretrained=False))
    assert kinds[:2] == [(Begin.OWN, 0), (Begin.NEW, 0)]
    assert set(kinds[2:]) == {(begin, n) for begin in ("AnB", "AnB+", "BnB", "BnB+") for n in (1, 2)}
    assert (Begin.HELD, 2) in list(plan(2, pretrained=True))


@pytest.mark.parametrize("begin", [Begin.A, Begin.A_TUNED, Begin.B, Begin.B_TUNED, Begin.HELD])
def test_first_stages_are_the_donors_and_move_only_with_a_plus(at_home, begin):
    trainer, silo, donors, task = at_home
    donor = getattr(donors, DONORS[begin])
    before = donors.state(begin, 1, trainer.spec)
    after = transplanted(trainer, silo, task, donors, begin, 1)
    first, second = ([f"body.{name}" for name in stage] for stage in stage_tensors(trainer.spec.body))
    assert all(torch.equal(before[name], donor[name]) for name in first)
    assert all(torch.equal(before[name], donors.new[name]) for name in second)
    weights = [name for name in first if name.endswith((".weight", ".bias"))]
    assert all(torch.equal(before[name], after[name]) == (begin in FROZEN) for name in weights)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    exact = trainer.adapt(after, silo.data.train.x, silo.data.width)
    assert same(exact, after)


def test_its_own_model_is_the_one_that_local_trains(at_home):
    from fedtl.training.at_home import own_model

    trainer, silo, donors, task = at_home
    alone = own_model(trainer, silo, task)
    assert all(torch.allclose(donors.own[name].float(), alone[name].float(), atol=1e-6) for name in alone)


def test_outputs_of_stages_are_those_of_the_layers_and_measures_are_bounded(at_home):
    trainer, silo, donors, _ = at_home
    x = silo.data.train.x
    first, second = stage_outputs(trainer, donors.own, x, 3)
    state = donors.own
    centred = x @ state["body.features.1.weight"].T - state["body.features.2.running_mean"]
    scaled = centred / (state["body.features.2.running_var"] + 1e-5).sqrt()
    expected = scaled * state["body.features.2.weight"] + state["body.features.2.bias"]
    assert torch.allclose(first, expected, atol=1e-4)
    assert second.shape == (24, 64)
    same_model = stage_measures(trainer, silo.data, donors.own, donors.own, donors.new)
    assert [one.cka for one in same_model] == pytest.approx([1, 1])
    assert all(0 <= one.cka_new < 1 and one.h_score is None for one in same_model)  # 24 rows, 64 features


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A whole small transferability, its jobs done in this process."""
    folder = tmp_path_factory.mktemp("transfer")
    experiment = load_experiment("digits", SMALL)
    run_folder = RunFolder.create(folder / "run", experiment)
    with temporary_store() as rows:
        study = command.build(experiment, rows, rows, "cpu")
        jobs = command._jobs(experiment, run_folder.path, study)
        for job in jobs:
            do_transfer(job.experiment, job.path, "cpu", None, rows)
    results = [RunFolder(job.path).transfer() for job in jobs]
    summary = summarize(experiment, results, command.stage_names(study.trainer), ())
    run_folder.write_json(command.FILE, summary)
    write_cut(run_folder, experiment, summary)
    return run_folder, results, summary


def test_every_silo_is_left_out_once_and_the_file_is_read_as_it_was_written(result):
    folder, results, summary = result
    assert [(one.silo, one.seed) for one in results] == [("plain", 3), ("inverted", 3)]
    assert len(summary.points) == len(results[0].trainings) == 2 + 4 * 2
    assert from_plain(Transferability, json.loads(json.dumps(to_plain(summary)))) == summary
    assert all(0 < stage.h_score.mean <= 4 for stage in summary.measures)  # of 4 features
    assert summary.points[1].gain.mean == 0  # of training from scratch over itself
    page = write_page(folder).read_text()
    for text in ("A1B+", "B2B", "recommended cut", "<svg", "cut.toml"):
        assert text in page


def test_the_recommended_cut_is_an_experiment_that_run_accepts(result):
    folder, _, summary = result
    settings = load_experiment(str(folder.path / "cut.toml"))
    if summary.cut.stages:
        assert (settings.method.name, settings.method.cut) == ("fedtl", summary.cut.stages)
    else:
        assert settings.method.name == "local"
    for count, name in ((2, "fedtl"), (0, "local")):
        write_cut(folder, folder.experiment(), replace(summary, cut=replace(summary.cut, stages=count)))
        method = load_experiment(str(folder.path / "cut.toml")).method
        assert (method.name, method.cut) == (name, count or None)


def test_the_others_rounds_never_see_the_silo_that_is_left_out(result):
    folder, *_ = result
    for name, other in (("plain", "inverted"), ("inverted", "plain")):
        lines = RunFolder(folder.path / f"transfers/{name}-seed3").history()
        assert {silo for line in lines for silo in line.silos} == {other}


def made(silo, losses, new=1.0):
    """A silo's result with these validation losses for 1, 2, ... stages."""
    trainings = [Training(Begin.OWN, 0, new, Measured({})), Training(Begin.NEW, 0, new, Measured({}))]
    trainings += [Training(Begin.A_TUNED, n, loss, Measured({})) for n, loss in enumerate(losses, 1)]
    return SiloTransfer(silo, 0, tuple(trainings), (StageMeasures(),) * len(losses))


def test_the_cut_is_the_smallest_number_within_one_standard_error_of_the_best():
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = rng.normal(size=(5, 4)) * 0.3 + [1, 0.8, 0.7, 0.7]
        best = table.mean(0).argmin()
        worse = table - table[:, [best]]
        error = stats.sem(worse)
        wanted = min(n for n in range(4) if worse[:, n].mean() <= error[n])
        found = choose_cut([made(str(at), row[1:], row[0]) for at, row in enumerate(table)], 3)
        assert found == (best, wanted)
    assert choose_cut([made(name, [2, 3]) for name in "ab"], 2) == (0, 0)
    with pytest.raises(DataError, match="validation rows"):
        choose_cut([made("a", [None, 1.0])], 2)


def test_an_interval_is_student_s_over_silos_of_means_over_seeds():
    values = {"a": [1.0, 3.0], "b": [4.0, 4.0], "c": [7.0, 8.0]}
    found = spread((silo, value) for silo, own in values.items() for value in own)
    means = [np.mean(own) for own in values.values()]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (found.mean, found.ci95, found.silos) == (np.mean(means), pytest.approx((low, high)), 3)
    assert spread([("a", None)]) is None
    assert spread([("a", 1.0)]).ci95 is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("privacy.epsilon=1", "not charged"),
        ("method.cut=1", "method.cut = 1"),
        ("data.val=0", "data.val = 0"),
        ("data.label_fraction=0.1", "data.label_fraction"),
        ("method.name=scaffold", "cannot be cut"),
    ],
)
def test_what_has_no_answer_is_refused_before_data_is_read(change, says):
    with pytest.raises(ConfigError, match=says):
        command.check_question(load_experiment("digits", [change]))
