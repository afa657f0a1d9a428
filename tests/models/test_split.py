"""A model is what its author built after the cut, or it is refused with the reason. Right, or refused: also for random models."""

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedtl.errors import FedTLError, ModelError
from fedtl.methods.registry import METHODS
from fedtl.models.custom import as_build
from fedtl.models.failures import module_failure
from fedtl.models.net import tied_names
from fedtl.models.registry import custom_spec
from fedtl.models.roles import roles
from fedtl.training.config import TrainingConfig
from fedtl.training.trainer import Trainer
from tests.models import zoo
from tests.training.silos import data_of, silo_at, task_for


def spec_of(make, classifier="fc"):
    return custom_spec(lambda shape: (make(), classifier), "mine", (zoo.COLUMNS,), 0)


def softmax_head():
    return nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))


REFUSED = {
    "a row's scores depend on the batch": (lambda: zoo.Plain(zoo.Mixing()), "other rows"),
    "batch statistics in evaluation": (
        lambda: zoo.Plain(nn.BatchNorm1d(6, track_running_stats=False)),
        "middle is a BatchNorm1d",
    ),
    "chance in evaluation": (lambda: zoo.Plain(zoo.Noisy()), "other scores each time"),
    "memory in evaluation": (lambda: zoo.Plain(zoo.Counting()), r"tensor middle\.seen"),
    "two outputs in training": (zoo.TwoInTraining, "in training mode.*tuple"),
    "no backward pass": (lambda: zoo.Plain(zoo.NoGradient()), "no gradient.*inplace"),
    "a classifier that is no plain layer": (lambda: zoo.Plain(head=zoo.Normed(6, 3)), "is a Normed"),
    "a classifier that shares its weight": (zoo.TiedHead, r"shares its weight"),
    "probabilities": (lambda: zoo.Plain(head=softmax_head()), "ends with Softmax"),
    "scores that are not finite": (lambda: zoo.Plain(nn.Threshold(1e9, float("nan"))), "not finite"),
    "a score for each position": (lambda: zoo.Plain(nn.Unflatten(1, (1, 6))), r"shape \(2, 1, 3\)"),
    "an error of its own": (lambda: zoo.Plain(zoo.Failing(KeyError("k"))), r"middle \(Failing\): 'k'"),
    "a computed tensor in a layer": (
        lambda: zoo.Plain(nn.utils.spectral_norm(nn.Linear(6, 6))),
        "middle.*parametrizations",
    ),
    "weights of half precision": (lambda: zoo.Plain(nn.Linear(6, 6).half()), r"middle\.weight.*float32"),
    "a batch taken for time": (lambda: zoo.Plain(zoo.OverBatch()), "other rows.*batch_first"),
    "memory beside the buffers": (lambda: zoo.Plain(zoo.Running()), "register what training changes"),
    "memory that is not saved": (lambda: zoo.Plain(zoo.Running(True)), r"middle\.mean, which.*not save"),
    "complex numbers": (lambda: zoo.Plain(zoo.Complex()), r"middle\.phase.*view_as_real"),
    "sparse gradients": (
        lambda: nn.Sequential(OrderedDict(a=nn.EmbeddingBag(9, 6, sparse=True), fc=nn.Linear(6, 3))),
        r"a \(EmbeddingBag\) gives sparse.*sparse=False",
    ),
    "inputs changed in place": (zoo.ChangesInputs, "changes its inputs"),
    "a layer after the classifier": (
        lambda: nn.Sequential(OrderedDict(fc=nn.Linear(4, 6), end=nn.Linear(6, 3))),
        "not the last layer",
    ),
    "a frozen classifier": (lambda: zoo.Plain(head=nn.Linear(6, 3).requires_grad_(False)), "is frozen"),
    "a shape that does not fit": (lambda: zoo.Plain(nn.Linear(5, 6)), r"middle \(Linear\): mat1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_would_be_another_one_is_refused_with_the_reason(case):
    make, reason = REFUSED[case]
    with pytest.raises(ModelError, match=reason) as refused:
        spec_of(make)
    assert "'mine'" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_module_that_cannot_be_copied_says_what_to_pass_instead():
    module = zoo.Plain(nn.utils.spectral_norm(nn.Linear(6, 6)))
    module(torch.ones(1, zoo.COLUMNS))  # its weight is then no leaf
    with pytest.raises(ModelError, match="cannot be copied"):
        as_build(module)((zoo.COLUMNS,))


def test_a_path_without_a_module_is_refused():
    with pytest.raises(ModelError, match="no module 'classifier'"):
        spec_of(zoo.Plain, "classifier")


@pytest.mark.parametrize(
    "make", [zoo.Codes, zoo.Tied, zoo.Recurrent, zoo.BodyChild, zoo.FlatConv, zoo.Frozen]
)
def test_what_is_accepted_computes_what_its_author_built(make):
    torch.manual_seed(5)
    whole, spec = make().eval(), spec_of(make)
    net = spec.net(3).eval()
    state = {
        name: spec.net_tensor(name, whole.state_dict()[spec.library_name(name)]) for name in net.state_dict()
    }
    net.load_state_dict(state)
    assert all(
        torch.equal(spec.library_tensor(name, value), whole.state_dict()[spec.library_name(name)])
        for name, value in net.state_dict().items()
    )
    x = torch.randint(2, (5, zoo.COLUMNS)).float()
    torch.testing.assert_close(net(x), whole(x))


def test_the_features_are_those_that_the_body_gives():
    head = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert spec_of(lambda: zoo.Plain(head=head)).features == 6


def test_a_lazy_layer_starts_from_the_seed():
    first, again = (spec_of(lambda: zoo.Plain(nn.LazyLinear(6))).body.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_check_changes_no_buffer():
    made = []
    spec_of(lambda: made.append(zoo.Plain(nn.BatchNorm1d(6))) or made[-1])
    fresh = nn.BatchNorm1d(6).state_dict()
    assert all(torch.equal(made[0].middle.state_dict()[name], fresh[name]) for name in fresh)
    assert all(weight.grad is None for weight in made[0].parameters())


@pytest.mark.parametrize("method", ["fedavg", "apfl", "scaffold"])
def test_what_the_author_froze_does_not_move(method):
    trainer = Trainer(spec_of(zoo.Frozen), METHODS[method](), TrainingConfig(lr=0.1))
    silo, before = silo_at(trainer), trainer.initial(3)
    update = trainer.fit(silo, task_for(trainer, silo))
    after = trainer.partition.join(
        {name: before[name] + change for name, change in update.delta.items()}, silo.local
    )
    frozen = ["body.first.weight", "body.first.bias"]
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    moved = [name for name in trainer.loop.roles if not torch.equal(after[name], before[name])]
    assert {"body.middle.weight", "head.weight"} <= set(moved)


@pytest.mark.parametrize("method", ["fedprox", "ditto", "apfl", "scaffold", "moon", "ifca", "mrmtl"])
def test_tied_weights_are_one_tensor_and_stay_tied(method):
    trainer = Trainer(spec_of(zoo.Tied), METHODS[method](), TrainingConfig(lr=0.1))
    assert "body.b.weight" in trainer.loop.roles
    assert "body.c.weight" not in trainer.loop.roles
    silo = silo_at(trainer)
    update = trainer.fit(silo, task_for(trainer, silo))
    state = trainer.partition.join(
        {name: task_for(trainer, silo).shared[name] + change for name, change in update.delta.items()},
        silo.local,
    )
    net = trainer._evaluated(state, 3)
    assert tied_names(net) == {"body.c.weight": "body.b.weight"}
    assert torch.equal(net.body.c.weight, state["body.b.weight"])


def test_a_step_on_tied_weights_is_torchs():
    spec = spec_of(zoo.Tied)
    config = TrainingConfig(lr=0.1, momentum=0.0, batch_size=10_000)
    trainer = Trainer(spec, METHODS["fedavg"](), config)
    silo = silo_at(trainer)
    update = trainer.fit(silo, task_for(trainer, silo))
    whole = zoo.Tied()
    initial = trainer.initial(3)
    whole.load_state_dict(
        {spec.library_name(name): value for name, value in initial.items()}
        | {"c.weight": initial["body.b.weight"]}
    )
    nn.functional.cross_entropy(whole(silo.data.train.x), silo.data.train.y).backward()
    torch.testing.assert_close(update.delta["body.b.weight"], -0.1 * whole.b.weight.grad)


def failure_of(model, x):
    try:
        model(x)
    except Exception as error:
        return module_failure(error)


def test_a_failure_names_the_module():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 4), b=zoo.Codes()))
    line = failure_of(model, torch.full((2, 4), -50.0))
    assert "b.emb (Embedding): index out of range" in line
    assert 'data.scale = "none"' in line
    assert "below 8" in line
    assert failure_of(nn.Sequential(zoo.Failing(MemoryError())), torch.zeros(1)) is None
    assert failure_of(nn.Sequential(zoo.Failing(ModelError("m"))), torch.zeros(1)) is None
    assert module_failure(ValueError("no module was running")) is None


def test_a_failure_in_a_round_names_silo_and_module():
    from fedtl.simulation.engine import Fit, try_job

    trainer = Trainer(spec_of(zoo.Codes), METHODS["fedavg"](), TrainingConfig())
    silo = silo_at(trainer, name="clinic", data=data_of(9, 23))
    with pytest.raises(ModelError, match=r"clinic.*emb \(Embedding\)"):
        try_job(Fit(task_for(trainer, silo)), trainer, silo)


LAYERS = st.sampled_from(
    [
        *(nn.ReLU, nn.Tanh, nn.Dropout, nn.Identity, zoo.Mixing, zoo.Noisy, zoo.Counting, zoo.NoGradient),
        *(lambda: nn.Linear(6, 6), lambda: nn.Linear(6, 6, bias=False), lambda: nn.Linear(6, 5)),
        *(lambda: nn.LazyLinear(6), lambda: nn.LayerNorm(6), lambda: nn.GroupNorm(2, 6)),
        *(lambda: nn.BatchNorm1d(6), lambda: nn.BatchNorm1d(6, track_running_stats=False)),
        *(lambda: nn.BatchNorm1d(6, momentum=None), lambda: nn.BatchNorm1d(6, affine=False)),
        *(lambda: nn.Linear(6, 6).requires_grad_(False), lambda: nn.Unflatten(1, (1, 6)), nn.Flatten),
        *(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), lambda: nn.Softmax(1)),
        *(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)), lambda: nn.PReLU(6)),
    ]
)
HEADS = st.sampled_from(
    [
        *(lambda: nn.Linear(6, 3), lambda: nn.Linear(6, 3, bias=False), lambda: nn.LazyLinear(3)),
        *(lambda: zoo.Normed(6, 3), softmax_head, lambda: nn.Sequential(nn.Dropout(), nn.Linear(6, 3))),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)),
        lambda: nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.ReLU(), nn.Linear(6, 3)),
    ]
)


MAPS = st.sampled_from(
    [
        *(nn.ReLU, nn.Dropout2d, nn.Identity, zoo.Mixing, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(1)),
        *(
            lambda: nn.Conv2d(6, 6, 3, padding=1),
            lambda: nn.Conv2d(6, 6, 1, groups=6),
            lambda: nn.Conv2d(6, 5, 1),
        ),
        *(lambda: nn.Conv2d(6, 6, 3, padding=2, dilation=2, bias=False), lambda: nn.ConvTranspose2d(6, 6, 1)),
        *(lambda: nn.BatchNorm2d(6), lambda: nn.BatchNorm2d(6, affine=False), lambda: nn.InstanceNorm2d(6)),
        *(lambda: nn.GroupNorm(3, 6, affine=False), lambda: nn.LazyConv2d(6, 1), lambda: nn.PReLU(6)),
        *(lambda: nn.Conv2d(6, 6, 1).requires_grad_(False), lambda: nn.Upsample(scale_factor=2)),
    ]
)
MAP_HEADS = st.sampled_from(
    [
        *(lambda: nn.Conv2d(6, 3, 1), lambda: nn.Conv2d(6, 3, 1, bias=False), lambda: nn.LazyConv2d(3, 1)),
        *(lambda: nn.Conv2d(6, 3, 1, groups=3), lambda: nn.Conv2d(6, 3, 3, padding=1)),
        *(lambda: nn.ConvTranspose2d(6, 3, 1), lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(6, 3, 1))),
    ]
)


def built(layers, head, repeat, end=""):
    """The layers in order, of which the first occurs again at the end: a module that is used twice. ``end``: of a convolutional net."""
    middle = [make() for make in layers]
    body = nn.Sequential(*middle, *(middle[:1] if repeat else []))
    return zoo.Picture(body, head(), end) if end else zoo.Plain(body, head())


CONVOLUTIONAL = st.one_of(
    st.tuples(st.lists(MAPS, max_size=4), st.just(lambda: nn.Linear(6, 3)), st.booleans(), st.just("before")),
    st.tuples(st.lists(MAPS, max_size=4), MAP_HEADS, st.booleans(), st.sampled_from(["kept", "after"])),
).map(tuple)  # or it would be drawn twice as often as the others
NETS = st.one_of(st.tuples(st.lists(LAYERS, max_size=4), HEADS, st.booleans()), CONVOLUTIONAL)


@settings(max_examples=30, derandomize=True, database=None)
@given(NETS)
def test_a_random_model_is_right_or_refused(parts):
    refusal, spec = "", None
    try:
        spec = spec_of(lambda: built(*parts))
    except ModelError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if spec is None:
        return
    net = spec.net(3)
    assert roles(net).keys() == net.state_dict().keys()
    assert spec.frozen == {name for name, weight in net.named_parameters() if not weight.requires_grad}
    trainer = Trainer(spec, METHODS["fedavg"](), TrainingConfig(lr=0.05))
    silo, before = silo_at(trainer), trainer.initial(3)
    try:
        update = trainer.fit(silo, task_for(trainer, silo))
    except FedTLError:
        return
    state = trainer.partition.join(
        {name: before[name] + change for name, change in update.delta.items()}, silo.local
    )
    moved = {name for name in state if not torch.equal(state[name], before[name])}
    assert not moved & spec.frozen
    x = silo.data.val.x
    one_by_one = torch.cat([trainer.scores(state, row[None], silo.data) for row in x])
    torch.testing.assert_close(trainer.scores(state, x, silo.data), one_by_one, rtol=1e-3, atol=1e-4)
    rebuilt = spec.net(3)
    rebuilt.load_state_dict(state)
    torch.testing.assert_close(rebuilt.eval()(x).detach(), one_by_one, rtol=1e-3, atol=1e-4)
