"""Every method is scored with the same treatment of the norms' statistics: the same weights get the same figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics

from fedtl.data.prepare import EvaluationSet
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.notes import AS_LEFT, LOCAL_AFTER
from fedtl.experiment.predict import SiloModel
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.messages import Task
from fedtl.methods.base import Use
from fedtl.methods.registry import METHODS
from fedtl.methods.sets import set_of
from fedtl.methods.tune import Tune
from fedtl.models.norms import statistics_distance
from fedtl.models.registry import with_private_norms
from fedtl.models.roles import Role
from fedtl.models.state import copy_state
from fedtl.simulation import stacked
from fedtl.simulation.shared_store import temporary_store
from fedtl.training.finish import Examine, Onboard
from fedtl.training.loop import TrainingConfig
from fedtl.training.metrics import quick
from fedtl.training.silo import Silo
from fedtl.training.trainer import Trainer
from tests.experiment.runs import SMALL, do, own_validation, small
from tests.experiments import MIXED
from tests.training.silos import data_of, mlp, rows_of, shaped, spec_for

TEST = replace(rows_of(77, 60), x=rows_of(77, 60).x - 76)  # drawn as the training rows are


def trained_weights():
    """Any weights, and running averages that are far from what the rows have."""
    trainer = Trainer(mlp(), METHODS["local"](), TrainingConfig(batch_size=8, epochs=2))
    silo = Silo("here", data_of(1, 40), trainer.initial(3), b"secret")
    state = trainer.train(silo, trainer.initial(3), trainer.method.phases[0], Task("test", 1, 4, 0, {}))
    for name in state:
        if name.endswith("running_mean"):
            state[name] += 1.5
        elif name.endswith("running_var"):
            state[name] *= 4
    return state


def at_home(name, state, plan=None, **changes):
    """A bench of the method, a silo that holds its part of the state, and the task that holds the other."""
    trainer = Trainer(
        plan or spec_for(name), replace(METHODS[name](), **changes), TrainingConfig(batch_size=8)
    )
    shared, local = trainer.partition.split(trainer.initial(3) | state)  # some methods add a discriminator
    return (
        trainer,
        Silo("here", shaped(data_of(1, 40), trainer.spec.shape), local, b"secret"),
        Task("test", 5, 4, 0, shared),
    )


def outcome(trainer, silo, task):
    test = replace(TEST, x=TEST.x.view(-1, *trainer.spec.shape))
    return Examine(task, lambda _: EvaluationSet(test, torch.arange(len(test))))(trainer, silo)


def forward(state, x, statistics=None):
    """
    The scores of ``mlp`` (linear, norm, ReLU, twice; linear) in numpy, and the mean and variance of each norm's inputs.
    ``statistics``: what the norms use; None: those of ``x`` itself.
    """
    state = {name: tensor.double().numpy() for name, tensor in state.items()}
    x, seen = x.double().numpy(), []
    for place, layer in enumerate((1, 4)):
        norm = f"body.features.{layer + 1}"
        x = x @ state[f"body.features.{layer}.weight"].T
        seen.append((norm, x.mean(0), x.var(0, ddof=1)))
        _, mean, variance = (norm, x.mean(0), x.var(0)) if statistics is None else statistics[place]
        x = np.maximum(
            (x - mean) / np.sqrt(variance + 1e-5) * state[f"{norm}.weight"] + state[f"{norm}.bias"], 0
        )
    return x @ state["head.weight"].T + state["head.bias"], seen


def exact_scores(state):
    """What a model with these weights says of the test rows once its statistics are those of the training rows."""
    _, seen = forward(state, data_of(1, 40).train.x)
    return forward(state, TEST.x, seen)[0]


PERSONAL = (
    "ditto",
    "mrmtl",
    "apfl",
)  # their silos use weights of their own, so the statistics are their own too


def used_weights(trainer, silo, task):
    """The weights that a silo uses, as each method's paper says, from what it holds and received; statistics as trained."""
    model, sets = dict(task.shared) | silo.local, trainer.sets(dict(task.shared) | silo.local)
    for step in trainer.method.finish:
        if isinstance(step, Use):
            model = sets[step.name] if step.through is None else step.through(sets)
    return {name: tensor for name, tensor in model.items() if "/" not in name}


def perturbed(trainer, state, seed=3):
    """The state with other values in every slot, as after rounds in which the silo's own model went its own way."""
    generator = torch.Generator().manual_seed(seed)
    slots = {set_of(name) for name in state} - {"model"}
    return {
        name: tensor * (1 + 0.3 * torch.rand(tensor.shape, generator=generator))
        if set_of(name) in slots and tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize(  # in select_start, validation rows choose whose model is used
    "name", [name for name in METHODS if name not in ("pooled", "select_start")]
)
def test_every_method_is_scored_with_the_same_treatment_of_statistics(name):
    """
    Exact statistics of the silo's training inputs wherever they are the silo's, in the headline figures; where they are
    shared, in the figures called refitted. The model is that which the method uses: a personal one, or a mixture.
    """
    state = trained_weights()
    trainer, silo, task = at_home(name, state)
    trainer = replace(trainer, method=replace(trainer.method, finish=uses(trainer.method)))
    silo.local = perturbed(trainer, silo.local)
    always = trainer.method.exact_statistics == "always"
    own = always or Role.STATS not in trainer.method.shared or name in PERSONAL
    used = used_weights(trainer, silo, task)
    scores = exact_scores(used)
    accuracy = metrics.accuracy_score(TEST.y, scores.argmax(1))
    wanted = {"accuracy": accuracy, "loss": metrics.log_loss(TEST.y, softmax(scores, 1))}
    found = outcome(trainer, silo, task)
    exact = found.test if own else found.refitted
    assert {name: exact.figures[name] for name in wanted} == pytest.approx(wanted, rel=1e-3)
    if own:
        assert found.refitted is None
        np.testing.assert_allclose(found.scores.numpy(), scores, atol=1e-3)
    else:
        assert torch.equal(found.scores, trainer.scores(used, TEST.x, silo.data))
        assert abs(found.test.figures["loss"] - wanted["loss"]) > 0.05
    if trainer.method.phases and not always:
        trained = exact_state(used)
        assert found.statistics_distance == pytest.approx(statistics_distance(used, trained), rel=1e-3)
    else:  # no training, so no running averages
        assert found.statistics_distance is None


def uses(method):
    """The steps that choose a model, without those that train one."""
    return tuple(step for step in method.finish if isinstance(step, Use))


def exact_state(state):
    """The state with the statistics of the training rows, in numpy."""
    _, seen = forward(state, data_of(1, 40).train.x)
    exact = {}
    for norm, mean, variance in seen:
        exact |= {
            f"{norm}.running_mean": torch.tensor(mean),
            f"{norm}.running_var": torch.tensor(variance),
        }
    return exact


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_mixture_that_is_the_shared_model_has_shared_statistics(alpha):
    """APFL with alpha = 0 is FedAvg, and is scored as FedAvg is; with alpha = 1 it is a silo's own model."""
    state = trained_weights()
    trainer, silo, task = at_home("apfl", state)
    silo.local = perturbed(trainer, silo.local)
    (key,) = (name for name in silo.local if name.startswith("alpha"))
    silo.local[key] = torch.tensor(alpha)
    found, fedavg = outcome(trainer, silo, task), outcome(*at_home("fedavg", state))
    assert (found.refitted is None) == (alpha == 1.0)
    assert (found.test == fedavg.test) == (alpha == 0.0)


def test_the_statistics_of_the_scored_model_are_those_of_the_training_inputs():
    state = trained_weights()
    found = outcome(*at_home("local", state))
    _, seen = forward(state, data_of(1, 40).train.x)
    for norm, mean, variance in seen:
        np.testing.assert_allclose(found.model.main.state[f"{norm}.running_mean"].numpy(), mean, atol=1e-4)
        np.testing.assert_allclose(found.model.main.state[f"{norm}.running_var"].numpy(), variance, rtol=1e-4)
    others = [name for name in state if "running" not in name]
    assert all(torch.equal(found.model.main.state[name], state[name]) for name in others)


def test_the_distance_of_statistics_is_that_of_the_normals_they_stand_for():
    """Against numbers drawn: mean and spread of what the norm puts out, where 0 and 1 are wanted."""
    rng = np.random.default_rng(0)
    x = rng.normal([1.0, -2.0], [2.0, 0.5], (400_000, 2))
    exact = {"n.running_mean": torch.tensor(x.mean(0)), "n.running_var": torch.tensor(x.var(0))}
    used = {"n.running_mean": torch.tensor([0.5, -2.5]), "n.running_var": torch.tensor([2.25, 1.0])}
    out = (x - used["n.running_mean"].numpy()) / np.sqrt(used["n.running_var"].numpy())
    wanted = np.sqrt(np.mean(out.mean(0) ** 2 + (out.std(0) - 1) ** 2))
    assert statistics_distance(used, exact) == pytest.approx(wanted, rel=1e-3)
    assert statistics_distance(exact, exact) == 0
    assert statistics_distance({}, {}) is None


def test_the_distance_is_of_what_training_left():
    state = trained_weights()
    exact, received = outcome(*at_home("local", state)), outcome(*at_home("fedavg", state))
    assert exact.statistics_distance == received.statistics_distance
    assert exact.statistics_distance == pytest.approx(
        statistics_distance(state, exact.model.main.state), rel=1e-6
    )
    assert exact.statistics_distance > 0.5
    assert outcome(*at_home("local", exact.model.main.state)).statistics_distance == pytest.approx(
        0, abs=1e-5
    )


def test_what_is_tuned_at_home_has_statistics_of_home():
    """FedAvg's shared statistics move where everything is tuned at home, and stay where only the head is."""
    state = trained_weights()
    trainer, silo, task = at_home("fedavg", state, finish=(Tune("all", 2),))
    found = outcome(trainer, silo, task)
    again = trainer.adapt(found.model.main.state, silo.data.train.x, silo.data.width)
    assert all(torch.allclose(found.model.main.state[name], again[name], atol=1e-6) for name in again)
    received = outcome(*at_home("fedavg", state))
    assert found.received == received.test
    assert found.refitted == received.refitted
    head = outcome(*at_home("fedavg", state, finish=(Tune("head", 2),)))
    kept = [name for name in state if "running" in name]
    assert all(torch.equal(head.model.main.state[name], state[name]) for name in kept)
    assert head.refitted is not None


@pytest.mark.parametrize(("when", "fits"), [("never", False), ("always", True)])
@pytest.mark.parametrize("name", ["fedavg", "fedbn", "fedtl"])
def test_a_private_run_fits_exact_statistics_only_where_it_says_local_after(name, when, fits):
    plan = with_private_norms(mlp())
    state = Trainer(plan, METHODS[name](), TrainingConfig()).initial(3)
    found = outcome(*at_home(name, state, with_private_norms(mlp()), exact_statistics=when))
    moved = {name for name in state if not torch.equal(found.model.main.state[name], state[name])}
    assert bool(moved) == fits
    assert found.refitted is None
    assert found.statistics_distance is None


@pytest.mark.parametrize("name", ["local", "fedtl", "fedbn", "fedavg", "fedper", "ditto"])
def test_the_figure_of_a_round_is_that_of_the_model_that_would_be_scored(name):
    """Serial and stacked, for a round that begins where training might have ended."""
    state = trained_weights()
    trainer, silo, task = at_home(name, state)
    wanted = outcome(trainer, silo, task).validation.figures["loss"]
    twin = replace(silo, name="there", local=copy_state(silo.local))
    if not trainer.method.slots:  # a stack holds one model a silo
        assert stacked.fit(trainer, [twin], task)["there"].metrics["loss"] == pytest.approx(wanted, rel=1e-4)
    assert trainer.fit(silo, task).metrics["loss"] == pytest.approx(wanted, rel=1e-4)


def test_training_begins_with_what_was_received_not_with_what_was_measured():
    state = trained_weights()
    trainer, silo, task = at_home("fedtl", state)
    received = copy_state(silo.local)
    blind = replace(silo, data=replace(silo.data, val=rows_of(3, 0)), local=copy_state(received))
    trainer.fit(blind, task)
    trainer.fit(silo, task)
    assert all(torch.equal(silo.local[name], blind.local[name]) for name in received)


def test_a_silo_that_trained_alone_late_has_statistics_of_all_its_inputs(monkeypatch):
    state = trained_weights()
    trainer, silo, task = at_home("fedtl", state)
    onboard = Onboard(task, lambda _: EvaluationSet(TEST, torch.arange(len(TEST))), 5, 3)
    seen = []
    plain = Trainer.adapt
    monkeypatch.setattr(
        Trainer, "adapt", lambda self, *given: seen.append(len(given[1])) or plain(self, *given)
    )
    assert {"alone", "head", "head_adabn", "ridge_adabn"} == set(onboard(trainer, silo))
    assert seen == [40, 40]


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    path = tmp_path_factory.mktemp("pooled") / "run"
    experiment = small("method.name=pooled")
    return do(path, experiment), path, experiment


def test_a_pooled_models_statistics_are_those_of_the_pooled_rows(pooled):
    result, path, experiment = pooled
    with temporary_store() as shelf:
        study = build(experiment, shelf, shelf)
        everybody = torch.cat([study.data(name).train.x for name in study.training])
    model = SiloModel(RunFolder(path), "plain")
    again = model.trainer.adapt(model.final.main.state, everybody, model.data.width)
    shared = RunFolder(path).tensors("shared.safetensors")
    assert all(torch.allclose(shared[name], again[name], atol=1e-5) for name in again if "running" in name)
    assert all("refitted" in its for its in result["silos"].values())


@pytest.mark.parametrize("method", ["local", "fedbn", "fedavg", "pooled", "fedtl"])
def test_the_model_that_is_used_is_the_model_that_was_scored(tmp_path, method, pooled):
    path = pooled[1] if method == "pooled" else tmp_path / "run"
    experiment = small(f"method.name={method}", *MIXED)
    if method == "pooled":
        experiment = pooled[2]
    else:
        do(path, experiment)
    folder = RunFolder(path)
    with temporary_store() as shelf:
        study = build(experiment, shelf, shelf)
        evaluation_set, data = study.evaluation_set("faint"), study.data("faint")
    model = SiloModel(folder, "faint")
    kept = folder.tensors("silos/faint/test.safetensors")
    assert torch.equal(model.final.scores(model.trainer, evaluation_set.test.x, data), kept["scores"])
    val = quick(model.final.scores(model.trainer, data.val.x, data), data.val.y, data.task)
    assert own_validation(path, "faint")["accuracy"] == pytest.approx(val["accuracy"])


def test_a_result_says_how_far_the_statistics_were_and_where_both_are_told(tmp_path, pooled):
    local = do(tmp_path / "local", small("method.name=local"))
    assert any("running averages" in note for note in local["notes"])
    assert all(its["statistics_distance"] > 0.1 for its in local["silos"].values())
    assert any("shared statistics" in note for note in pooled[0]["notes"])


@pytest.mark.parametrize("statistics", ["public", "local-after"])
def test_a_private_result_says_which_statistics_its_figures_are_of(tmp_path, statistics):
    settings = ["privacy.epsilon=3", f"privacy.statistics={statistics}", "data.silos=['plain']"]
    result = do(tmp_path / "private", load_experiment("digits", [*SMALL, *settings]))
    assert (LOCAL_AFTER if statistics == "local-after" else AS_LEFT) in result["notes"]
    assert "refitted" not in result["silos"]["plain"]
