"""Runs with [model.adapters]: what is sent, kept, exported and onboarded, resumed runs, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedtl.deployment.site.site_plan import check_policy
from fedtl.errors import ConfigError, Denied, ModelError
from fedtl.experiment.backbone import read_backbone
from fedtl.experiment.config.load import load_experiment, to_toml
from fedtl.experiment.final_models import FROZEN
from fedtl.experiment.grow import grow
from fedtl.experiment.predict import SiloModel, export_model
from fedtl.experiment.run import run
from fedtl.experiment.run_folder import RunFolder
from fedtl.experiment.study import build
from fedtl.experiment.tensor_table import tensor_table
from fedtl.experiment.transfer.transferability import check_question
from fedtl.messages import Update
from fedtl.models.registry import model_spec
from fedtl.models.roles import Role
from fedtl.privacy.taint_metadata import read_labels
from fedtl.simulation.shared_store import temporary_store
from tests.deployment.site.sites import Site
from tests.experiments import ROUNDS_ONLY

BASE = (
    "rounds=2",
    "data.limit=40",
    "engine.name=serial",
    'data.silos=["plain","inverted","faint"]',
    *ROUNDS_ONLY,
)
ADAPTERS = ("model.adapters.rank=2", 'data.late=["faint"]')


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A body from elsewhere."""
    file = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file({name: tensor for name, tensor in other_net().state_dict().items() if name[:4] == "body"}, file)
    return file


def other_net():
    return model_spec("convnet", (1, 8, 8), 7).net(10)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    experiment = load_experiment("digits", [*BASE, *ADAPTERS, f"model.weights={weights}"])
    made = RunFolder.create(tmp_path_factory.mktemp("run") / "run", experiment)
    run(experiment, made)
    return made


def study_of(*sets):
    with temporary_store() as store:
        return build(load_experiment("digits", [*BASE, *sets]), store, store)


def test_the_body_is_the_received_one_and_only_adapters_leave(folder, weights):
    given, shared = load_file(weights), folder.tensors("shared.safetensors")
    frozen = folder.tensors(FROZEN)
    assert all(torch.equal(frozen[name], given[name]) for name in frozen.keys() & given.keys())
    assert {name for name in frozen if name in given} == {
        name for name in given if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert shared.keys() == {f"body.features.{n}.adapter.up.weight" for n in (0, 4, 8)}
    assert all(tensor.any() for tensor in shared.values())
    assert folder.result().bytes_up == 2 * 2 * 4 * 2 * (32 + 64 + 64)  # rounds, silos, bytes, rank, outputs
    assert not frozen.keys() & folder.tensors("silos/plain/local.safetensors").keys()
    assert set(folder.result().late) == {"faint"}


@pytest.mark.filterwarnings("ignore")  # of torch's ONNX export
def test_an_exported_model_is_the_plain_one_with_the_same_scores(folder, tmp_path):
    model = SiloModel(folder, "plain")
    written = export_model(model, tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    spec = model_spec("convnet", (1, 8, 8), 0)
    net = spec.net(10)
    net.load_state_dict(
        {spec.net_name(name): tensor for name, tensor in state.items()}
    )  # raises for a name too many
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(
        net.eval()(x), model.final.scores(model.trainer, x, model.data), rtol=1e-4, atol=1e-5
    )
    assert any("scores" in line for line in written)
    onnx = pytest.importorskip("onnx.reference")
    (scores,) = onnx.ReferenceEvaluator(str(tmp_path / "out" / "model.onnx")).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), net(x), rtol=1e-3, atol=1e-4)


def test_a_merged_weight_has_the_label_of_its_least_protected_part(folder, tmp_path):
    """The body is public, and what the rows trained beside it is not; nor is then their sum."""
    assert set(folder.labels(FROZEN).values()) == {"public"}
    export_model(SiloModel(folder, "plain"), tmp_path / "out")
    labels = read_labels(tmp_path / "out" / "model.safetensors")
    assert {labels[f"features.{n}.weight"] for n in (0, 4, 8)} == {"local-only"}
    assert labels["features.1.weight"] == "public"


def test_a_new_silo_receives_the_frozen_body_and_the_adapters(folder):
    backbone = read_backbone(folder.path)
    state = backbone.trainer.initial(10) | backbone.shared
    for name, tensor in (folder.tensors(FROZEN) | folder.tensors("shared.safetensors")).items():
        assert torch.equal(state[name], tensor), name


def test_a_bottleneck_stays_in_the_exported_model(weights, tmp_path):
    sets = [
        *BASE,
        "model.adapters.kind=bottleneck",
        "model.adapters.rank=2",
        f"model.weights={weights}",
    ]
    experiment = load_experiment("digits", sets)
    made = RunFolder.create(tmp_path / "run", experiment)
    run(experiment, made)
    export_model(SiloModel(made, "plain"), tmp_path / "out")
    assert "features.0.adapter.down.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert json.loads((tmp_path / "out" / "model.json").read_text())["adapters"]["kind"] == "bottleneck"
    with pytest.raises(ConfigError, match="bottleneck"):
        read_backbone(tmp_path / "out")


def test_a_stopped_run_resumes_to_the_same_bits(folder, weights, tmp_path):
    class Killed(Exception):
        pass

    def stop(_):
        raise Killed

    again = RunFolder.create(tmp_path / "again", folder.experiment())
    with pytest.raises(Killed):
        run(again.experiment(), again, progress=stop)
    run(again.experiment(), again)
    for name in ("shared.safetensors", FROZEN, "silos/plain/local.safetensors"):
        a, b = folder.tensors(name), again.tensors(name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_the_settings_survive_their_file(tmp_path):
    experiment = load_experiment(
        "digits", [*BASE, "model.adapters.kind=lora", 'model.adapters.where=["conv"]']
    )
    (tmp_path / "same.toml").write_text(to_toml(experiment))
    assert load_experiment(str(tmp_path / "same.toml")) == experiment


def test_show_says_what_leaves_under_privacy():
    rows = {row.name: row for row in tensor_table(study_of("privacy.epsilon=3", *ADAPTERS))}
    label = {"body": "public", "norm": "public", "adapter": "released", "stats": "public"}
    assert {row.role for row in rows.values() if row.leaves} == {"adapter"}
    assert all(row.label == label[row.role] for row in rows.values() if row.role in label)


def test_norms_are_trained_with_adapters_where_the_settings_say_so():
    study = study_of("model.adapters.rank=2", 'train.roles=["adapter","norm","head"]')
    leaving = {row.role for row in tensor_table(study) if row.leaves}
    assert leaving == {Role.ADAPTER, Role.NORM}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.roles=['adapter']"], "has no adapters"),
        (["model.adapters.rank=2", "model.freeze=1"], "model.freeze = 1"),
        (["model.adapters.rank=2", "train.roles=['body','adapter']"], "freezes the body"),
        (["model.adapters.rank=2", "method.tune.what=norm"], "freezes the norms"),
        (["model.adapters.kind=bottleneck", "model.adapters.alpha=2"], "model.adapters.alpha"),
        (["model.adapters.where=['conv','conv']"], "model.adapters.where"),
        (["model.adapters.rank=0"], "model.adapters.rank"),
        (["model.adapters.kind=dora"], "model.adapters.kind"),
        (["model.adapters.rank=2", "method.name=local", "silo.plain.model.name=mlp"], "change layers"),
        (["model.adapters.rank=2", "train.roles=['head']"], "share no weight"),
    ],
)
def test_contradicting_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        study_of(*settings)


def test_an_entry_without_a_layer_is_refused():
    with pytest.raises(ModelError, match="features.0"):
        study_of('model.adapters.where=["linear"]')


def test_what_needs_a_moving_body_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="shares no body"):
        grow(folder, {"widths": [8, 20, 12]}, tmp_path / "wider")
    with pytest.raises(ConfigError, match="model.adapters"):
        check_question(folder.experiment())


def test_a_site_allows_adapters_by_their_role_alone(tmp_path):
    """The policy that most sites begin with does not list the role."""
    with pytest.raises(Denied, match="role adapter"):
        Site(tmp_path / "default", ["model.adapters.rank=2"])
    site = Site(tmp_path / "allows", ["model.adapters.rank=2"], policy__roles=["adapter"])
    check_policy(site.plan)
    update = site.ask(site.task())
    assert isinstance(update, Update), site.lines()[-1]
    assert {line.role for line in site.plan.manifest.lines} == {"adapter"}
    assert update.delta.keys() == {line.name for line in site.plan.manifest.lines}
