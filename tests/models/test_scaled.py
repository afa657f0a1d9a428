"""data.scale = "dp": mean and spread of each column are released with noise, charged, and precise enough to train."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedtl._util.records import to_plain
from fedtl.errors import ConfigError, ModelError
from fedtl.experiment.config.load import load_experiment
from fedtl.experiment.guarantees import silo_guarantee
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.models.registry import MODELS, model_spec, with_private_norms
from fedtl.models.scaled import INPUT_SCALE, with_input_scale
from fedtl.privacy import dp_adabn as statistics
from fedtl.privacy.dp_adabn import MAX_ACTIVATION, RADII, StatisticsRelease, release_statistics
from fedtl.privacy.ledger_reading import read_ledger
from fedtl.privacy.noise import Noise
from fedtl.simulation.shared_store import temporary_store
from tests.experiments import ROUNDS_ONLY

UNITS = np.array([1e-3, 1.0, 1e3, 5e4])
CENTRES = np.array([2e-3, -3.0, 8e3, 1e5])
BOUNDS = "data.bounds={0=[-0.008,0.012],1=[-13,7],2=[-2000,18000],3=[-400000,600000]}"
SETS = [
    "data.source=npz",
    "data.silos=[]",
    "data.limit=0",
    "data.classes=['0','1']",
    "model.name=mlp",
    "rounds=4",
    *ROUNDS_ONLY,
]
SETS += [
    "engine.name=serial",
    "train.batch_size=100",
    "train.lr=0.1",
    "privacy.epsilon=4",
    "privacy.tuning=public",
]
DP = ["data.scale=dp", BOUNDS]
SHAPES = {
    "linear": (3,),
    "mlp": (3,),
    "convnet": (2, 8, 8),
    "convnet_gn": (2, 8, 8),
    "digitmodel": (1, 8, 8),
    "resnet20": (3, 16, 16),
    "convnet1d": (2, 8),
    "gru": (2, 8),
    "unet": (1, 8, 8),
}


class Silent(Noise):
    def __init__(self):
        pass

    def add(self, total, std):
        return total


def columns(rows, seed):
    """Columns with very different units; the label depends on each of them equally."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 4))
    return z * UNITS + CENTRES, (z.sum(1) + 0.3 * rng.normal(size=rows) > 0).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("columns")
    for number, name in enumerate(("a", "b")):
        (x, y), (tx, ty) = columns(1000, number), columns(400, 10 + number)
        np.savez(made / f"{name}.npz", train_x=x, train_y=y, test_x=tx, test_y=ty)
    return made


def trained(folder, out, *sets):
    experiment = load_experiment("digits", [*SETS, f"data.path={folder}", *sets])
    return to_plain(run(experiment, RunFolder.create(out, experiment)))


@pytest.fixture(scope="module")
def scaled(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dp"
    return trained(folder, out, *DP), RunFolder(out)


def test_training_works_with_columns_of_very_different_units(folder, scaled, tmp_path):
    none = trained(folder, tmp_path / "none", "data.scale=none")
    dp, _ = scaled
    assert dp["mean"]["accuracy"] > 0.85
    assert dp["mean"]["accuracy"] > none["mean"]["accuracy"] + 0.1
    assert all(its["epsilon"] <= 4 for its in dp["privacy"]["silos"].values())


def test_mean_and_spread_equal_numpys_within_the_noise(folder, scaled):
    """In the columns' own units, from the tensors that the silo keeps."""
    _, run_folder = scaled
    for name in ("a", "b"):
        inputs, _, _ = run_folder.inputs(name)
        own = run_folder.tensors(f"silos/{name}/local.safetensors")
        half, middle = np.array(inputs.std), np.array(inputs.mean)
        mean = middle + half * own[f"body.{INPUT_SCALE}.running_mean"].numpy()
        std = half * own[f"body.{INPUT_SCALE}.running_var"].sqrt().numpy()
        x = np.load(folder / f"{name}.npz")["train_x"]
        assert np.abs((mean - x.mean(0)) / x.std(0)).max() < 1.0
        assert np.abs(np.log(std / x.std(0))).max() < math.log(2)
        said = run_folder.labels(f"silos/{name}/local.safetensors")
        assert (
            said[f"body.{INPUT_SCALE}.running_mean"] == said[f"body.{INPUT_SCALE}.running_var"] == "released"
        )


def test_the_release_is_one_charged_event_before_the_first_step(scaled):
    result, run_folder = scaled
    with temporary_store() as shelf:
        its = silo_guarantee(build(run_folder.experiment(), shelf, shelf), "a", run_folder.silo("a"))
    assert its.releases.statistics.layers == (INPUT_SCALE,)
    assert its.releases.statistics.channels == (4,)
    lines = [line.as_json() for line in read_ledger(its.account.path, its.account.dataset)]
    charged = [line["events"] for line in lines if line["what"] == "charged"]
    event = [its.releases.statistics.noise_multiplier, 1.0, 1]
    assert [event in [list(one) for one in events] for events in charged] == [True, False, False, False]
    assert result["privacy"]["silos"]["a"]["statistics_noise"] == its.releases.statistics.noise_multiplier


def test_one_record_moves_every_sub_release_by_no_more_than_the_clip(monkeypatch):
    """Against numpy: the sums before noise, with a record, without it (zero-out) and with it at the other bounds."""
    n, c = 40, 3
    plan = with_input_scale(with_private_norms(model_spec("mlp", (c,), 0)), (c,))
    start = {name: tensor.clone() for name, tensor in plan.body.state_dict().items()}
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.uniform(-0.2, 0.2, (n, c)), dtype=torch.float32)
    noise_of, sums = np.random.default_rng(1), []
    fixed = [torch.tensor(noise_of.normal(0, 0.1, c)) for _ in range(2 * len(RADII))]
    fixed[1] -= (
        0.7  # a spread of 0.3: at the bounds a value is then three spreads away, and has to be clipped
    )

    class Fixed(Noise):
        """The same answers for every data set, so that later sub-releases start from the same statistics."""

        def __init__(self):
            self.left = iter(fixed)

        def add(self, total, std):
            sums[-1].append(total.numpy().copy())
            return next(self.left).to(total) * n

    for row in ([0.2, -0.2, 0.2], None, [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, -1.0, 1.0]):
        rows = torch.cat([x, torch.zeros(0, c) if row is None else torch.tensor([row])])
        plan.body.load_state_dict(start)
        sums.append([])
        release = StatisticsRelease(1e-3, (INPUT_SCALE,), (c,), n)
        release_statistics(plan.body, lambda rows=rows: [(rows, None)], release, Fixed())
    limits = [radius * math.sqrt(c) for radius in RADII for _ in range(2)]
    without = sums[1]
    farthest = np.zeros(len(limits))
    for which in (0, 2, 3, 4):
        moved = [np.linalg.norm(a - b) for a, b in zip(sums[which], without, strict=True)]
        assert all(length <= limit * (1 + 1e-6) for length, limit in zip(moved, limits, strict=True))
        farthest = np.maximum(farthest, [length / limit for length, limit in zip(moved, limits, strict=True)])
    assert farthest.max() > 0.99  # records at the bounds reach the clip, which limits their effect
    # The first sub-release by hand: z of the declared start, clamped, each record clipped.
    z = np.concatenate([x.numpy(), [[1.0, 1.0, 1.0]]]) / math.sqrt(1 + 1e-5)
    z = z.clip(-MAX_ACTIVATION, MAX_ACTIVATION)
    z *= np.minimum(1, limits[0] / np.linalg.norm(z, axis=1, keepdims=True))
    assert np.allclose(sums[2][0], z.sum(0), atol=1e-4)


def test_without_noise_it_gives_mean_and_spread():
    plan = with_input_scale(with_private_norms(model_spec("mlp", (2,), 0)), (2,))
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal([0.3, -0.1], [0.2, 0.5], (4000, 2)).clip(-1, 1), dtype=torch.float32)
    release = StatisticsRelease(1e-9, (INPUT_SCALE,), (2,), 4000)
    release_statistics(plan.body, lambda: [(x, None)], release, Silent())
    norm = plan.body.get_submodule(INPUT_SCALE)
    assert np.allclose(norm.running_mean, x.mean(0), atol=0.02)
    assert np.allclose(norm.running_var.sqrt(), x.std(0), rtol=0.1)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_scales_its_inputs_once_and_keeps_its_names(name):
    shape = SHAPES[name]
    plain = with_private_norms(model_spec(name, shape, 0))
    scaled = with_input_scale(plain, shape)
    first, *others = scaled.body.state_dict()
    assert first == f"{INPUT_SCALE}.running_mean"
    assert others[1:] == list(plain.body.state_dict())
    assert next(iter(statistics.adaptable_layers(scaled.body))) == INPUT_SCALE
    norm = scaled.body.get_submodule(INPUT_SCALE)
    norm.running_mean += 0.5
    norm.running_var *= 4
    x = torch.randn(5, *shape)
    with torch.no_grad():
        assert torch.allclose(
            scaled.body.eval()(x), plain.body.eval()((x - 0.5) / math.sqrt(4 + 1e-5)), atol=1e-5
        )


def test_a_model_that_would_scale_its_inputs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            for child in self.children():
                x = child(x)
            return x

    plan = with_private_norms(model_spec("mlp", (3,), 0))
    with pytest.raises(ModelError, match="2 times"):
        with_input_scale(plan.__class__(Twice(), plan.make_head, 3, "fc", 0, (3,)), (3,))


def test_a_resumed_run_uses_the_released_scale(folder, tmp_path):
    """With reproducible noise an interrupted and resumed run gives the numbers of an uninterrupted one."""
    sets = [*SETS, *DP, f"data.path={folder}", "privacy.noise=reproducible"]
    experiment = load_experiment("digits", sets)
    whole = RunFolder.create(tmp_path / "w" / "s", experiment)
    run(experiment, whole)
    parts = RunFolder.create(tmp_path / "p" / "s", experiment)

    class Stop(Exception):
        pass

    def stop(one):
        if one.after.round == 2:
            raise Stop

    with pytest.raises(Stop):
        run(experiment, parts, progress=stop)
    run(experiment, parts)
    for name in ("a", "b"):
        one, other = (its.tensors(f"silos/{name}/local.safetensors") for its in (whole, parts))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_every_engine_gives_the_same_bits(folder, tmp_path):
    found = []
    for engine in (["engine.name=serial"], ["engine.name=processes", "engine.workers=2"]):
        sets = [one for one in SETS if not one.startswith("engine")]
        experiment = load_experiment(
            "digits", [*sets, *engine, *DP, f"data.path={folder}", "privacy.noise=reproducible"]
        )
        its = RunFolder.create(tmp_path / engine[0] / "s", experiment)
        run(experiment, its)
        found.append(its.tensors("silos/a/local.safetensors") | its.tensors("shared.safetensors"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_an_export_carries_the_scale(scaled, folder, tmp_path):
    _, run_folder = scaled
    model = SiloModel(run_folder, "a")
    archive = np.load(folder / "a.npz")
    right = model.scores(archive["test_x"]).argmax(1).numpy() == archive["test_y"]
    result = run_folder.read_json("result.json")
    assert right.mean() == pytest.approx(result["silos"]["a"]["accuracy"])
    export_model(model, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "model.json").read_text())
    weights = load_file(tmp_path / "out" / "model.safetensors")
    kept = run_folder.tensors("silos/a/local.safetensors")
    assert torch.equal(weights[f"{INPUT_SCALE}.running_var"], kept[f"body.{INPUT_SCALE}.running_var"])
    assert "running_mean" in content["input_scale"]
    assert content["inputs"]["low"] == [-0.008, -13, -2000, -400000]


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["method.name=fedavg"], "method .fedavg."),
        (["data.bounds={0=[0,1]}"], "no entry for '1'"),
        (["data.bounds={'*'=[1,0]}"], "data.bounds.* = \\[1"),
        (["data.bounds={'*'=[0,1,2]}"], "fill value 2"),
    ],
)
def test_what_cannot_be_scaled_is_refused(folder, sets, says):
    last = {one.partition("=")[0]: one for one in [*SETS, *DP, f"data.path={folder}", *sets]}
    with pytest.raises(ConfigError, match=says), temporary_store() as shelf:
        build(load_experiment("digits", list(last.values())), shelf, shelf).data("a")


def test_without_privacy_there_is_no_release(folder):
    sets = [one for one in SETS if not one.startswith("privacy")]
    with pytest.raises(ConfigError, match="data.scale"):
        load_experiment("digits", [*sets, *DP, f"data.path={folder}"])


def test_the_plan_is_within_the_budget(folder):
    experiment = load_experiment("digits", [*SETS, *DP, f"data.path={folder}"])
    with temporary_store() as shelf:
        study = build(experiment, shelf, shelf)
        its = silo_guarantee(study, "a", folder)
        assert study.data("a").origins.scale == "released"
    assert its.epsilon <= 4 < its.epsilon * 1.01
