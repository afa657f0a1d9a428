"""What a term may see of a pass, what a method may send in addition to the model, and what is refused."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from fedtl.errors import ConfigError
from fedtl.experiment.config.resolve import server_of
from fedtl.experiment.config.schema import MethodSettings
from fedtl.methods.base import Method, Phase, Use
from fedtl.methods.losses import OnWeights, PerBatch, PerExample, TaskLoss, WithoutGradient
from fedtl.methods.private import private_problems
from fedtl.methods.registry import METHODS
from fedtl.methods.server import ServerStep
from fedtl.methods.sets import MODEL, RECEIVED, as_part, model_part, part, set_of
from fedtl.methods.slot import Slot
from fedtl.methods.slots import first_model, zeros
from fedtl.methods.summary import Summary
from fedtl.methods.tune import Tune
from fedtl.methods.without_weight_terms import without_weight_terms
from fedtl.models.roles import Role
from fedtl.training.at_home import tuned_model
from fedtl.training.loop import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.experiment.private_silos import bench_of, silo_of, task_of
from tests.training.silos import FULL_BATCH, data_of, federate, mlp, same, silo_at, task_for

SEEN = {}


@dataclass(frozen=True)
class Looks(PerExample):
    """Records everything that a term may use."""

    needs_layers = ("body.features.1", "head")

    def modules(self, features, shape):
        return {"looks": nn.Linear(features, 2)}

    def losses(self, out):
        other = out.of(2 * out.batch.x)
        received = out.by(RECEIVED)
        SEEN.update(
            x=out.batch.x, features=out.features, scores=out.scores, layers=dict(out.layers), again=out.features,
            other=other.scores.detach(), received=received.scores, aux=out.aux["looks"](out.features),
            fixed=received.aux["looks"](received.features), y=other.batch.y,
        )  # fmt: skip
        return 0 * out.aux["looks"](out.features).sum(1)


def test_a_term_sees_features_scores_layers_other_inputs_and_other_weights():
    trainer = Trainer(mlp(), Method(objective=(TaskLoss(), Looks())), replace(FULL_BATCH, lr=0.5))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    phase = Phase(train=frozenset({Role.HEAD, Role.BODY, Role.AUX, Role.NORM}))  # statistics stay
    trainer = replace(
        trainer, method=replace(trainer.method, phases=(phase,)), training=replace(FULL_BATCH, epochs=2)
    )
    trainer.fit(silo, task)
    net = Trainer(mlp(), trainer.method, FULL_BATCH).net(3).eval()
    net.load_state_dict(task.shared | silo.local)
    x = SEEN["x"]
    with torch.no_grad():  # the second step: the received model is the first one, the trained one is another
        assert torch.allclose(SEEN["received"], net(x), atol=1e-6)
        assert torch.allclose(SEEN["fixed"], net.aux["looks"](net.body(x)), atol=1e-6)
        assert torch.equal(SEEN["layers"]["head"], SEEN["scores"])
        assert not torch.allclose(SEEN["layers"]["body.features.1"], net.body.features[1](x), atol=1e-6)
        assert not torch.allclose(SEEN["scores"], net(x), atol=1e-4)
    assert SEEN["layers"].keys() == {"body.features.1", "head"}
    assert SEEN["scores"].requires_grad
    assert not SEEN["received"].requires_grad
    assert SEEN["again"] is SEEN["features"]
    assert not torch.allclose(SEEN["other"], SEEN["scores"])
    assert sorted(SEEN["y"].tolist()) == sorted(silo.data.train.y.tolist())


@dataclass(frozen=True)
class ClassMeans(Summary):
    """A row's feature and a 1, at its class: sums and counts, so that a silo may lack a class."""

    name: str = "class_means"
    bound: float = 1e6

    def rows(self, out):
        counted = torch.cat([out.features, torch.ones(len(out.features), 1)], 1)
        return nn.functional.one_hot(out.batch.y, 3)[:, :, None] * counted[:, None]

    def shape(self, features, width):
        return (width, features + 1)


@dataclass(frozen=True)
class NearMeans(PerExample):
    """Tan et al., 2022: weight * mean (f - mean feature of its class over all silos)^2."""

    weight: float = 1.0

    def losses(self, out):
        sums = out.summary("class_means")[out.batch.y]
        count = sums[:, -1:]
        return self.weight * ((out.features - sums[:, :-1] / count.clamp_min(1e-6)) * (count > 0)).pow(
            2
        ).mean(1)


def test_a_summary_is_the_mean_of_the_silos_means_as_numpy_has_it():
    prototypes = Method(frozenset(), (TaskLoss(), NearMeans()), summaries=(ClassMeans(),))
    trainer = Trainer(mlp(), prototypes, TrainingConfig(batch_size=8))
    silos = [silo_at(trainer, name, data_of(seed, 12 + seed)) for seed, name in enumerate("abc")]
    history = federate(trainer, silos, 1)
    shared = history[-1].after.shared
    assert shared.keys() == {"summary/class_means"}
    assert trainer.partition.roles["summary/class_means"] is Role.SUMMARY
    sums, counts = np.zeros((3, 64)), np.zeros(3)
    for silo in silos:
        net = mlp().net(3).eval()
        net.load_state_dict(silo.local)
        with torch.no_grad():
            features, y = net.body(silo.data.train.x).double().numpy(), silo.data.train.y.numpy()
        for label in range(3):
            sums[label] += features[y == label].sum(0)
            counts[label] += (y == label).sum()
    found = shared["summary/class_means"].double().numpy()
    np.testing.assert_allclose(found[:, :-1] / found[:, -1:], sums / counts[:, None], rtol=1e-4, atol=1e-5)
    # The next round's loss sees them: it differs from a round with zeros.
    one, other = (silo_at(trainer, "a", data_of(0, 12)) for _ in range(2))
    task = replace(task_for(trainer, one), round=2)
    trainer.fit(one, task)
    trainer.fit(other, replace(task, shared=shared))
    assert not same(one.local, other.local)


def test_a_vector_longer_than_the_bound_is_scaled_down():
    short = replace(ClassMeans(), bound=0.5)
    trainer = Trainer(mlp(), Method(summaries=(short,)), FULL_BATCH)
    silo = silo_at(trainer)
    delta = trainer.fit(silo, task_for(trainer, silo)).delta["summary/class_means"]
    assert 0 < float(delta.norm()) <= 0.5


@dataclass(frozen=True)
class Clash(PerBatch):
    def modules(self, features, shape):
        return {"looks": nn.Linear(features, 1)}

    def loss(self, out):
        return out.aux["looks"](out.features).mean()


def test_two_losses_with_a_module_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="Looks and Clash"):
        Trainer(mlp(), Method(objective=(TaskLoss(), Looks(), Clash())), FULL_BATCH)


def test_a_per_batch_term_may_bring_modules():
    trainer = Trainer(mlp(), Method(objective=(TaskLoss(), Clash())), FULL_BATCH)
    silo = silo_at(trainer)
    assert trainer.fit(silo, task_for(trainer, silo)).delta["aux.looks.weight"].any()


@dataclass(frozen=True)
class Centred(OnWeights):
    """Pulls its own module's weight to 3."""

    def modules(self, features, shape):
        return {"centre": nn.Linear(1, 1, bias=False)}

    def gradient(self, name, weight, sets):
        return weight - 3 if name == "aux.centre.weight" else None


def test_a_term_on_weights_may_bring_modules():
    """By hand: K steps of plain gradient descent on (w - 3)^2 / 2 leave (1 - lr)^K of the distance."""
    method = Method(objective=(TaskLoss(), Centred()))
    trainer = Trainer(mlp(), method, replace(FULL_BATCH, lr=0.1, epochs=5, momentum=0.0))
    silo = silo_at(trainer)
    task = task_for(trainer, silo)
    before = float(task.shared["aux.centre.weight"])
    after = before + float(trainer.fit(silo, task).delta["aux.centre.weight"])
    assert after == pytest.approx(3 - (3 - before) * 0.9**5, rel=1e-5)
    silent = replace(trainer, method=without_weight_terms(method))
    assert not silent.fit(silo_at(silent), task).delta["aux.centre.weight"].any()
    with pytest.raises(ConfigError, match="Centred and WithoutGradient"):
        Trainer(mlp(), Method(objective=(TaskLoss(), Centred(), WithoutGradient(Centred()))), FULL_BATCH)


@pytest.mark.parametrize("name", ["model", "received", "shared", "summary", "a/b", ""])
def test_a_slots_name_is_not_reserved(name):
    with pytest.raises(ValueError, match="slot"):
        Method(slots=(Slot(name, first_model),))
    with pytest.raises(ValueError, match="twice"):
        Method(slots=(Slot("one", first_model), Slot("one", zeros)))


def test_counts_do_not_cross_in_a_slot():
    trainer = Trainer(mlp(), Method(slots=(Slot("personal", first_model, crosses=True),)), FULL_BATCH)
    names = model_part(trainer.initial(3))
    kept = {name for name in names if not trainer.partition.leaves(f"personal/{name}")}
    assert kept == {name for name in names if name.endswith("num_batches_tracked")} != set()


def test_parts_of_a_state():
    state = {"body.w": torch.ones(1), **as_part("own", {"body.w": torch.zeros(1)})}
    assert set(map(set_of, state)) == {MODEL, "own"}
    assert model_part(state) == {"body.w": state["body.w"]}
    assert part(state, "own") == {"body.w": state["own/body.w"]}


def test_finishing_steps_that_choose_come_before_those_that_train():
    method = replace(METHODS["ditto"](), finish=(Tune("head", 1), Use("personal")))
    trainer = Trainer(mlp(), method, FULL_BATCH)
    silo = silo_at(trainer)
    silo.data = replace(silo.data, val=silo.data.val.take(torch.arange(0)))  # all epochs are kept
    task = task_for(trainer, silo)
    delta = trainer.fit(silo, task).delta
    shared = {name: task.shared[name] + delta[name] for name in delta}
    used = tuned_model(trainer, silo, replace(task, round=5, shared=shared))
    own = part(silo.local, "personal")
    changed = {trainer.partition.roles[name] for name in used if not torch.equal(used[name], own[name])}
    assert changed == {
        Role.HEAD,
        Role.STATS,
    }  # a personal model's statistics are the silo's, so they are made exact


def test_a_methods_own_server_step_is_used_and_not_set_twice(monkeypatch):
    monkeypatch.setitem(METHODS.own, "mine", lambda: Method(server=ServerStep("median")))
    assert server_of(MethodSettings(name="mine")) == ServerStep("median")
    assert server_of(MethodSettings(server={"name": "adam"})) == ServerStep("adam")
    with pytest.raises(ConfigError, match="method.server"):
        server_of(MethodSettings(name="mine", server={"name": "adam"}))


# Under privacy


def mixed(sets):
    return sets[MODEL]


@pytest.mark.private
@pytest.mark.parametrize(
    ("method", "what"),
    [
        (METHODS["apfl"](), "phase 2"),
        (METHODS["fedala"](), "phase 1"),
        (METHODS["scaffold"](), "'control'"),
        (METHODS["ifca"](), "phase 1"),
        (METHODS["mrmtl"](grid=(0.0,)), "grid"),
        (METHODS["coral"](), "Coral"),
        (METHODS["dann"](), "DomainAdversarial"),
        (METHODS["silo_mmd"](), "SiloMeanDiscrepancy"),
        (METHODS["silo_coral"](), "SiloCoral"),
        (METHODS["jdot"](), "JointTransport"),
        (METHODS["cdan"](), "ConditionalAdversarial"),
        (Method(summaries=(ClassMeans(bound=float("inf")),)), "'class_means'"),
        (Method(phases=(Phase(through=mixed),)), "phase 1"),
    ],
)
def test_what_no_clip_covers_is_refused_under_privacy_and_costs_nothing(method, what, tmp_path):
    assert any(what in problem for problem in private_problems(method))
    if any(term.needs_target for term in method.losses):
        return
    trainer = bench_of(method)
    silo = silo_of(trainer, tmp_path)
    with pytest.raises(ConfigError, match=r"\[privacy\]"):
        trainer.fit(silo, task_of(trainer))
    assert not silo.guarantee.account.path.exists()


@pytest.mark.private
@pytest.mark.parametrize("name", ["ditto", "mrmtl", "armul", "moon"])
def test_methods_whose_sets_are_each_clipped_train_privately(name, tmp_path):
    assert not list(private_problems(METHODS[name]()))
    trainer = bench_of(name)
    silo = silo_of(trainer, tmp_path, statistics="dp")
    before = dict(silo.local)
    assert len(silo.guarantee.training.steps) == len(trainer.method.phases)
    for number in (1, 2):
        update = trainer.fit(silo, task_of(trainer, number))
    assert set(silo.labels.values()) <= {"public", "private-mechanism", "released"}
    kept = [slot.name for slot in trainer.method.slots]
    moved = {set_of(key) for key in before if not torch.equal(before[key], silo.local[key])}
    assert moved >= set(kept)
    if name == "mrmtl":  # it sends its own model
        own = part(silo.local, "personal")
        for key, tensor in update.delta.items():
            assert torch.allclose(task_of(trainer).shared[key] + tensor, own[key], atol=1e-6)


@pytest.mark.private
@pytest.mark.parametrize(("mu", "share"), [(0.0, 0.0), ("inf", 1.0)])
def test_the_pull_acts_in_private_rounds_from_tensors_alone(mu, share, tmp_path):
    """Silent steps: a learning rate of almost 0, so the silo's own model is where the pull left it."""
    trainer = bench_of(METHODS["mrmtl"](mu=mu))
    trainer = replace(trainer, training=replace(trainer.training, lr=1e-9))
    silo = silo_of(trainer, tmp_path)
    trainer.fit(silo, task_of(trainer))
    task = task_of(trainer, 2)
    far = {name: tensor + 100 for name, tensor in task.shared.items()}
    update = trainer.fit(silo, replace(task, shared=far))
    assert update.delta.keys() == far.keys()
    for name, delta in update.delta.items():
        assert torch.allclose(delta, torch.full_like(delta, -100 * (1 - share)), atol=1e-3), name


@pytest.mark.private
def test_a_slot_that_saw_rows_without_noise_enters_no_private_round(tmp_path):
    from fedtl.errors import Refused

    trainer = bench_of("ditto")
    silo = silo_of(trainer, tmp_path)
    guarantee, silo.guarantee = silo.guarantee, None
    trainer.fit(silo, task_of(trainer))
    silo.guarantee = guarantee
    with pytest.raises(Refused, match="personal/"):
        trainer.fit(silo, task_of(trainer, 2))
    assert not silo.guarantee.account.path.exists()


@pytest.mark.parametrize("role", [Role.EXTRA, Role.SUMMARY])
def test_a_slot_leaves_only_where_it_says_that_it_crosses(role):
    with pytest.raises(ConfigError, match="crosses = True"):
        Method(frozenset({Role.BODY, role}), slots=(Slot("own", first_model),))
